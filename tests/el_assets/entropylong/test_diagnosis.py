"""Every stage that hands on nothing is named with its counts, and with a setting that changes it."""

from typing import Any

import pytest

from el_assets.entropylong.diagnosis import added, by_reason, why_nothing
from el_resources.store.stamps import Stamp

SETTINGS = {
    "root_tokens_min": 128,
    "root_tokens_max": 640,
    "chunk_tokens": 96,
    "skip_tokens": 8,
    "alpha": 1.5,
    "near_duplicate_containment": 0.5,
    "retriever": "dense",
    "criterion": "entropy",
    "epsilon": 0.4,
    "sequence_tokens": 1536,
}
# A shard of which every stage hands something on.
FULL: dict[str, dict[str, Any]] = {
    "documents": {"documents": 730, "set_aside": {}},
    "entropy_maps": {
        "rows": 5,
        "documents_eligible": 7,
        "documents_not_eligible": {"too_long_for_root_tokens_max": 723},
        "window_tokens": 2048,
        "anchors": 20,
    },
    "candidate_contexts": {"anchors": 20, "retrieved_pairs": 160, "control_pairs": 80},
    "context_scores": {"rows": 240},
    "verified_pairs": {"contexts": 12, "pairs_above_epsilon": 30},
    "packed_sequences": {"sequences": 2, "packable_tokens": 4000, "leftovers": {}},
}


def stamps(*changes: dict[str, dict[str, Any]]) -> dict[str, list[Stamp]]:
    """Stamps of one shard for each change to FULL."""
    return {
        asset: [
            Stamp(
                asset=asset, partition=str(n), recipe="r", settings=SETTINGS, facts={**facts, **change.get(asset, {})}
            )
            for n, change in enumerate(changes)
        ]
        for asset, facts in FULL.items()
    }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"documents": {"documents": 0, "unreadable": "a.gz is torn"}}, "the source could not be read: a.gz is torn"),
        (
            {"documents": {"documents": 0, "set_aside": {"empty": 2, "exact_duplicate": 3}}},
            "all 5 documents were set aside: exact_duplicate 3, empty 2",
        ),
        (
            {"documents": {"documents": 0}},
            "the source holds no documents: look at the file, or at EL_CORPUS and EL_TEXT_COLUMN",
        ),
        (
            {"entropy_maps": {"rows": 0, "documents_eligible": 0, "documents_not_eligible": {"too_short": 9}}},
            "9 of 9 documents are shorter than root_tokens_min=128: lower EL_ROOT_TOKENS_MIN",
        ),
        (
            {
                "entropy_maps": {
                    "rows": 0,
                    "documents_eligible": 0,
                    "documents_not_eligible": {"too_long_for_window": 7, "too_long_for_root_tokens_max": 723},
                }
            },
            "723 of 730 documents are longer than root_tokens_max=640: raise EL_ROOT_TOKENS_MAX (0: no limit); "
            "7 of 730 documents do not fit the scorer's window of 2048 tokens together with BOS, a context of "
            "chunk_tokens=96 and the separator: take a model with a longer window (EL_LONG_MODEL) or lower "
            "EL_CHUNK_TOKENS",
        ),
        (
            {"entropy_maps": {"anchors": 0}},
            "none of the 5 roots has an anchor, a position after its first 8 tokens with entropy above mean + 1.5 "
            "standard deviations: lower EL_ALPHA",
        ),
        (
            {
                "candidate_contexts": {
                    "retrieved_pairs": 0,
                    "excluded_own_chunks": 40,
                    "excluded_near_duplicates": 3,
                }
            },
            "no chunk was retrieved for 20 anchors: of the chunks found 40 are of the root's own document and 3 "
            "near-duplicates of it; index more documents, raise EL_NEAR_DUPLICATE_CONTAINMENT (now 0.5), or change "
            "EL_RETRIEVER (now dense)",
        ),
        (
            {"verified_pairs": {"contexts": 0, "pairs_above_epsilon": 0}},
            "none of 160 retrieved pairs is found to lower the entropy by more than epsilon=0.4: lower EL_EPSILON",
        ),
        (
            {"verified_pairs": {"contexts": 0, "pairs_above_epsilon": 3}},
            "3 of 160 retrieved pairs lower the entropy by more than epsilon=0.4, and none of them beats every control "
            "at its anchor: set EL_BEATS_CONTROLS=false or lower EL_CONTROLS_PER_ROOT",
        ),
        (
            {"packed_sequences": {"sequences": 0, "packable_tokens": 900}},
            "900 tokens of contexts and roots in this shard are less than sequence_tokens=1,536: lower "
            "EL_SEQUENCE_TOKENS or EL_EPSILON, or sample more of the 7 eligible roots by EL_ROOTS_PER_SHARD",
        ),
        (
            {"packed_sequences": {"sequences": 0, "packable_tokens": 0, "leftovers": {"root_longer_than_sequence": 4}}},
            "4 roots, alone or with their contexts, are longer than sequence_tokens=1,536: raise EL_SEQUENCE_TOKENS or "
            "lower EL_ROOT_TOKENS_MAX",
        ),
        (
            {"packed_sequences": {"sequences": 0, "packable_tokens": 1600, "leftovers": {"no_fitting_group": 3}}},
            "no choice of 3 roots with their contexts has exactly sequence_tokens=1,536 tokens: change "
            "EL_SEQUENCE_TOKENS, or sample more of the 7 eligible roots by EL_ROOTS_PER_SHARD",
        ),
    ],
)
def test_the_first_stage_that_hands_on_nothing_is_named(change: dict[str, dict[str, Any]], why: str) -> None:
    assert why_nothing(stamps(change)) == why


def test_all_eligible_roots_are_taken_already() -> None:
    """Sampling more roots cannot help then."""
    why = why_nothing(stamps({"entropy_maps": {"rows": 7}, "packed_sequences": {"sequences": 0, "packable_tokens": 9}}))
    assert why is not None
    assert "EL_ROOTS_PER_SHARD" not in why
    assert why.endswith(
        "or make more documents eligible as roots, since all 7 are taken (723 of 730 documents are longer than "
        "root_tokens_max=640: raise EL_ROOT_TOKENS_MAX (0: no limit))"
    )


def test_shards_are_looked_at_together() -> None:
    nothing = {"sequences": 0}
    both = stamps(
        {"packed_sequences": {**nothing, "packable_tokens": 900}},
        {"packed_sequences": {**nothing, "packable_tokens": 1200}},
    )
    why = why_nothing(both)
    assert why is not None
    assert why.startswith("1,200 tokens of contexts and roots in the fullest of 2 shards are less than")
    one = stamps({"packed_sequences": nothing}, {})
    assert why_nothing(one) is None, "the other shard has sequences"


def test_tables_that_are_not_made_yet_are_not_empty() -> None:
    full = stamps({})
    assert why_nothing({}) is None
    assert why_nothing(full) is None
    assert why_nothing({"documents": full["documents"], "entropy_maps": []}) is None


def test_facts_are_added_over_shards() -> None:
    total = added([{"rows": 2, "leftovers": {"a": 1}, "model": "m"}, {"rows": 3, "leftovers": {"a": 1, "b": 4}}])
    assert (total["rows"], total["leftovers"], total["shards"]) == (5, {"a": 2, "b": 4}, 2)
    assert by_reason(total["leftovers"]) == "b 4, a 2"
