"""States of tables after a change: small tables with real stamps, real fingerprints of real models and files."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from el_assets.catalogue import CORPUS_TABLES, RECIPES, SAMPLE_TABLES, SEQUENCE_TABLES
from el_assets.corpus.assets import open_corpus_of
from el_assets.operations.status import made_again
from el_resources.store.shard_tables import ShardTables
from tests.conftest import Workspace, chat
from tests.support.finished_tables import A, B, corpus, finish_pool, pool, stale

FROM_MAPS = SEQUENCE_TABLES
FROM_CANDIDATES, FROM_SCORES, FROM_PAIRS = FROM_MAPS[1:], FROM_MAPS[2:], FROM_MAPS[3:]
SCORES = ("hmg_scores", "cam_scores")
SELECTION = ("influence_scores", "selected_subsets")


def test_nothing_is_stale_after_a_run(unchanged: Workspace) -> None:
    assert {a.asset: (a.done, a.missing, a.stale) for a in corpus(unchanged).assets} == {
        **dict.fromkeys((*CORPUS_TABLES, *SEQUENCE_TABLES), (2, [], {})),
        "retrieval_index": (0, ["all"], {}),
    }
    assert pool(unchanged).is_done


def test_a_run_says_of_each_asset_why_it_makes_tables_again(unchanged: Workspace) -> None:
    settings = unchanged.loaded(epsilon=0.5)
    sources, chosen = {"corpus": open_corpus_of(settings)}, {"corpus": [A, B]}
    told = partial(made_again, unchanged.instance, settings, sources, chosen)
    assert list(told(FROM_MAPS)) == [
        "verified_pairs: 2 tables made again: setting epsilon was 0.4, is 0.5",
        "packed_sequences: 2 tables made again: its input verified_pairs is stale",
    ]
    assert list(told(CORPUS_TABLES)) == []
    chosen["corpus"] = [A]
    assert "verified_pairs: 1 table made again: setting epsilon was 0.4, is 0.5" in told(FROM_MAPS)


@pytest.mark.parametrize(
    ("changes", "first", "reason", "dependent"),
    [
        ({"alpha": 1.25}, "entropy_maps", "setting alpha was 1.5, is 1.25", FROM_MAPS),
        ({"roots_per_shard": 3}, "entropy_maps", "setting roots_per_shard was 25, is 3", FROM_MAPS),
        (
            {"candidates_per_anchor": 3},
            "candidate_contexts",
            "setting candidates_per_anchor was 8, is 3",
            FROM_CANDIDATES,
        ),
        (
            {"retriever": "full_text"},
            "candidate_contexts",
            "setting retriever was 'dense', is 'full_text'",
            FROM_CANDIDATES,
        ),
        (
            {"query_side": "before"},
            "candidate_contexts",
            "setting query_side was 'around', is 'before'",
            FROM_CANDIDATES,
        ),
        ({"epsilon": 0.3}, "verified_pairs", "setting epsilon was 0.4, is 0.3", FROM_PAIRS),
        ({"max_chunk_uses": 3}, "verified_pairs", "setting max_chunk_uses was 8, is 3", FROM_PAIRS),
        ({"long_model": "reference:short"}, "entropy_maps", "model changed: scorer", FROM_MAPS),
        ({"text_column": "body"}, "documents", "setting text_column was '', is 'body'", (*CORPUS_TABLES, *FROM_MAPS)),
        ({"chunk_tokens": 64}, "context_chunks", "setting chunk_tokens was 128, is 64", ("context_chunks", *FROM_MAPS)),
        ({"device": "cpu", "influence_alpha": 0.5, "shards_per_run": 3, "refresh_candidates": True}, "", "", ()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_of_the_corpus_marks_its_dependents_and_says_why(
    unchanged: Workspace, changes: dict[str, Any], first: str, reason: str, dependent: tuple[str, ...]
) -> None:
    found = stale(corpus(unchanged, **changes))
    assert set(found) == set(dependent)
    if first:
        assert reason in found[first]


def test_another_encoder_marks_vectors_and_candidates_not_entropies(unchanged: Workspace, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    found = stale(corpus(unchanged, encoder=f"sentence-transformers:{tmp_path}"))
    assert set(found) == {"context_chunks", *FROM_CANDIDATES}
    assert found["context_chunks"] == found["candidate_contexts"] == {"model changed: encoder"}
    assert found["packed_sequences"] == {"its input verified_pairs is stale"}


@pytest.mark.parametrize(
    ("changes", "first", "reason", "dependent"),
    [
        ({"influence_alpha": 0.5}, "influence_scores", "setting influence_alpha was 0.8, is 0.5", SELECTION),
        ({"cosine_normalisation": "none"}, "influence_scores", "setting cosine_normalisation", SELECTION),
        ({"segment_tokens": 64}, "cam_scores", "setting segment_tokens was 128, is 64", ("cam_scores", *SELECTION)),
        ({"hmg_form": "pair"}, "hmg_scores", "model changed: short_reader", ("hmg_scores", *SELECTION)),
        ({"short_window": 64}, "hmg_scores", "the short window was 512 tokens, is 64", ("hmg_scores", *SELECTION)),
        ({"context_cut": "middle"}, "hmg_scores", "setting context_cut", (*SCORES, *SELECTION)),
        (
            {"dtype": "bfloat16"},
            "cam_scores",
            "the dtype of the weights was float32, is bfloat16",
            (*SCORES, *SELECTION),
        ),
        ({"separator": "\n"}, "instruction_samples", "setting separator", (*SAMPLE_TABLES, *SELECTION)),
        ({"epsilon": 0.1, "alpha": 1.0}, "", "", ()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_of_the_pool_marks_its_dependents_and_says_why(
    unchanged: Workspace, changes: dict[str, Any], first: str, reason: str, dependent: tuple[str, ...]
) -> None:
    found = stale(pool(unchanged, **changes))
    assert set(found) == set(dependent)
    if first:
        assert any(why.startswith(reason) for why in found[first])


def test_a_changed_file_marks_its_shard_only(workspace: Workspace) -> None:
    workspace.write_shard(B, [{"id": "1", "text": "another text"}])
    status = corpus(workspace)
    assert [(a.asset, list(a.stale)) for a in status.assets if a.stale] == [
        (name, [B]) for name in (*CORPUS_TABLES, *SEQUENCE_TABLES)
    ]
    assert stale(status)["documents"] == {"source changed"}
    assert stale(status)["context_chunks"] == {"its input documents is stale"}


def test_a_raised_code_version_is_named(unchanged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "verified_pairs", replace(RECIPES["verified_pairs"], code_version="next"))
    found = stale(corpus(unchanged))
    assert set(found) == set(FROM_PAIRS)
    assert found["verified_pairs"] == {"code version was 1, is next"}


def test_an_input_that_was_made_anew_is_named(workspace: Workspace) -> None:
    tables = workspace.tables
    stamp = tables.require_stamp("candidate_contexts", A)
    tables.write(tables.read("candidate_contexts", A), replace(stamp, pinned={"index_tag": "other"}))
    found = stale(corpus(workspace))
    assert set(found) == set(FROM_SCORES)
    assert found["context_scores"] == {"input candidate_contexts was made again"}


def test_a_stamp_from_before_reasons_were_kept_is_still_judged(workspace: Workspace) -> None:
    tables = workspace.tables
    stamp = replace(tables.require_stamp("documents", A), made_from={}, recipe="older")
    tables.write(tables.read("documents", A), stamp)
    assert "source changed" in " ".join(stale(corpus(workspace))["documents"])


def test_a_shard_without_tables_is_missing_and_one_beside_the_registered_is_named(workspace: Workspace) -> None:
    workspace.write_shard("c.jsonl", [{"text": "new"}])
    assert corpus(workspace).not_registered == ["c.jsonl"]
    workspace.register()
    status = corpus(workspace)
    assert all(a.missing == ["c.jsonl"] for a in status.assets if a.asset != "retrieval_index")
    (workspace.folder / "corpus" / B).unlink()
    assert corpus(workspace).gone == [B]
    assert stale(corpus(workspace))["documents"] == {"its file left the source"}


def test_a_pool_that_grew_makes_the_ranking_stale(workspace: Workspace) -> None:
    tables = workspace.tables
    before = tables.require_stamp("influence_scores"), tables.read("influence_scores")
    workspace.write_instructions("c.jsonl", [chat("c", "context", "question?", "answer")])
    workspace.register_instructions()
    assert not stale(pool(workspace)), "not before the new shard is scored"
    finish_pool(workspace, A, B, "c.jsonl")
    tables.write(before[1], before[0])
    assert stale(pool(workspace)) == {
        "influence_scores": {"the pool changed: 1 shard"},
        "selected_subsets": {"its input influence_scores is stale"},
    }


def test_every_stamp_is_read_once(unchanged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    plain = ShardTables._sound_stamp

    def counted(self: ShardTables, asset: str, partition: str) -> Any:
        read.append((asset, partition))
        return plain(self, asset, partition)

    monkeypatch.setattr(ShardTables, "_sound_stamp", counted)
    corpus(unchanged)
    assert len(read) == len(set(read)) == 2 * len((*CORPUS_TABLES, *SEQUENCE_TABLES, "packing_leftovers"))
