"""The reason why EntropyLong gave no sequences, and the setting to change; used by checks, summary and report.

The stages are documents, eligible roots, anchors, candidates, kept contexts and sequences; each needs the one before.
So the first stage with a count of zero is the cause. Only the facts of stamps are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from el_assets.catalogue import SEQUENCE_TABLES
from el_assets.tables.finite import OTHER_DTYPE
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp

Facts = Mapping[str, Any]
TABLES_LOOKED_AT = ("documents", *SEQUENCE_TABLES)
# Reason why documents are not eligible as roots -> words that follow "n of m documents".
LENGTHS = {
    "too_short": "are shorter than root_tokens_min={root_tokens_min}: lower EL_ROOT_TOKENS_MIN",
    "too_long_for_root_tokens_max": "are longer than root_tokens_max={root_tokens_max}: raise EL_ROOT_TOKENS_MAX "
    "(0: no limit)",
    "too_long_for_window": "do not fit the scorer's window of {window_tokens} tokens together with BOS, a context of "
    "chunk_tokens={chunk_tokens} and the separator: take a model with a longer window (EL_LONG_MODEL) or lower "
    "EL_CHUNK_TOKENS",
    "source_offers_no_roots": "are of a source with `roots=no`: take that out of EL_CORPUS if they should be roots",
}


def why_nothing(stamps: Mapping[str, Iterable[Stamp]]) -> str | None:
    """Return why the shards have no sequence and what to change; None if they have one, or if no stage is empty yet.

    Args:
        stamps: for each table of TABLES_LOOKED_AT that has been made, the stamps of its shards.

    Example:
        723 of 730 documents are longer than root_tokens_max=640: raise EL_ROOT_TOKENS_MAX (0: no limit)
    """
    listed = {asset: list(found) for asset, found in stamps.items()}
    facts = {asset: added([stamp.facts for stamp in found]) for asset, found in listed.items() if found}
    settings = {name: value for found in listed.values() for stamp in found for name, value in stamp.settings.items()}
    for asset, fact, reason in STAGES:
        if asset in facts and not facts[asset].get(fact):
            return reason(facts, settings)
    return None


def stamps_of(tables: ShardTables, shards: Sequence[str]) -> dict[str, list[Stamp]]:
    """Return the stamps that `why_nothing` reads."""
    return {asset: list(tables.stamps(asset, shards).values()) for asset in TABLES_LOOKED_AT}


def why_unfilled(tables: ShardTables, shard: str) -> str | None:
    """Return why a shard fills no sequence; None if it does, or if its source is not meant to offer roots."""
    maps = tables.stamp("entropy_maps", shard)
    if maps is not None and "source_offers_no_roots" in maps.facts.get("documents_not_eligible", ()):
        return None
    packed, documents = tables.stamp("packed_sequences", shard), tables.stamp("documents", shard)
    if (packed and packed.facts.get("sequences")) or (documents and "unreadable" in documents.facts):
        return None  # an unreadable file has its own check and line
    return why_nothing(stamps_of(tables, [shard]))


def why_empty(tables: ShardTables, stamp: Stamp) -> str:
    """Return why the table with this stamp, which has no rows, is empty."""
    before = TABLES_LOOKED_AT[: TABLES_LOOKED_AT.index(stamp.asset)]
    stored = ((asset, tables.stamp(asset, stamp.partition)) for asset in before)
    found = {asset: [one] for asset, one in stored if one is not None}
    return why_nothing({**found, stamp.asset: [stamp]}) or f"{stamp.asset} has no rows"


def added(facts: Sequence[Facts]) -> dict[str, Any]:
    """Return the facts of several shards as one: numbers and counts by reason are added, texts are listed."""
    total: dict[str, Any] = {"shards": len(facts), "most_packable_tokens": 0}
    for of_shard in facts:
        for name, value in of_shard.items():
            # Add by kind.
            if isinstance(value, Mapping):
                counts = total.setdefault(name, {})
                counts.update({k: v + counts.get(k, 0) for k, v in value.items() if isinstance(v, int)})
            elif isinstance(value, (int, float)):
                total[name] = value + total.get(name, 0)
            elif isinstance(value, str):
                total.setdefault(name, []).append(value)
        # Keep, not add.
        total["window_tokens"] = of_shard.get("window_tokens")
        total["most_packable_tokens"] = max(total["most_packable_tokens"], of_shard.get("packable_tokens", 0))
    return total


def no_documents(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say why no document is usable."""
    documents = facts["documents"]
    if "unreadable" in documents:
        return f"the source could not be read: {'; '.join(documents['unreadable'])}"
    if set_aside := documents.get("set_aside"):
        return f"all {sum(set_aside.values()):,} documents were set aside: {by_reason(set_aside)}"
    return "the source holds no documents: look at the file, or at EL_CORPUS and EL_TEXT_COLUMN"


def no_roots(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say why no document is eligible as a root, or that none of the sampled ones has finite scores."""
    if lost := facts["entropy_maps"].get("roots_not_finite"):
        return f"none of the {lost:,} sampled roots has finite scores. {OTHER_DTYPE}"
    return ineligible(facts, settings) or "no document is eligible as a root"


def ineligible(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say why documents are not eligible as roots, the commonest reason first; empty if all are."""
    maps = facts.get("entropy_maps", {})
    reasons: Mapping[str, int] = maps.get("documents_not_eligible") or {}
    total = sum(reasons.values()) + maps.get("documents_eligible", 0)
    known = {**settings, "window_tokens": maps.get("window_tokens")}
    return "; ".join(
        f"{count:,} of {total:,} documents {LENGTHS[reason].format_map(known)}"
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
    )


def no_anchors(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say that no root has a position that is uncertain enough to be an anchor."""
    return (
        f"none of the {facts['entropy_maps']['rows']:,} roots has an anchor, a position after its first "
        f"{settings['skip_tokens']} tokens with entropy above mean + {settings['alpha']} standard deviations: "
        "lower EL_ALPHA"
    )


def no_candidates(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say that retrieval found no chunk that may be a context."""
    found = facts["candidate_contexts"]
    return (
        f"no chunk was retrieved for {found.get('anchors', 0):,} anchors: of the chunks found "
        f"{found.get('excluded_own_chunks', 0):,} are of the root's own document and "
        f"{found.get('excluded_near_duplicates', 0):,} near-duplicates of it; index more documents, raise "
        f"EL_NEAR_DUPLICATE_CONTAINMENT (now {settings['near_duplicate_containment']}), or change EL_RETRIEVER "
        f"(now {settings['retriever']})"
    )


def no_contexts(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say which part of the keep rule no pair passes."""
    scores = facts.get("context_scores", {})
    if scores.get("pairs_not_finite") and not scores.get("rows"):
        return f"none of the {scores['pairs_not_finite']:,} scored pairs has finite scores. {OTHER_DTYPE}"
    passing = facts["verified_pairs"].get("pairs_above_epsilon", 0)
    pairs = facts["candidate_contexts"].get("retrieved_pairs", 0) if "candidate_contexts" in facts else 0
    fall = f"lower the {settings['criterion']} by more than epsilon={settings['epsilon']}"
    if passing:
        return (
            f"{passing:,} of {pairs:,} retrieved pairs {fall}, and none of them beats every control at its anchor: "
            "set EL_BEATS_CONTROLS=false or lower EL_CONTROLS_PER_ROOT"
        )
    return f"none of {pairs:,} retrieved pairs is found to {fall}: lower EL_EPSILON"


def no_sequences(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say why no choice of groups has exactly L tokens."""
    packed = facts["packed_sequences"]
    length = f"sequence_tokens={settings['sequence_tokens']:,}"
    tokens, leftovers = packed["most_packable_tokens"], packed.get("leftovers", {})
    too_long = sum(leftovers.get(reason, 0) for reason in ("root_longer_than_sequence", "group_longer_than_sequence"))
    longer = f"{too_long:,} roots, alone or with their contexts, are longer than {length}"
    if not tokens:
        return f"{longer}: raise EL_SEQUENCE_TOKENS or lower EL_ROOT_TOKENS_MAX"
    remark = f" ({longer})" if too_long else ""
    if tokens < settings["sequence_tokens"]:
        where = "in this shard" if packed["shards"] == 1 else f"in the fullest of {packed['shards']} shards"
        return (
            f"{tokens:,} tokens of contexts and roots {where} are less than {length}{remark}: lower "
            f"EL_SEQUENCE_TOKENS or EL_EPSILON, or {more_roots(facts, settings)}"
        )
    return (
        f"no choice of {leftovers.get('no_fitting_group', 0):,} roots with their contexts has exactly {length} "
        f"tokens{remark}: change EL_SEQUENCE_TOKENS, or {more_roots(facts, settings)}"
    )


def more_roots(facts: Mapping[str, Facts], settings: Facts) -> str:
    """Say how to get more roots: by sampling more of the eligible documents, or by making more of them eligible."""
    maps = facts.get("entropy_maps", {})
    eligible = maps.get("documents_eligible", 0)
    if maps.get("rows", 0) + maps.get("roots_not_finite", 0) < eligible:
        return f"sample more of the {eligible:,} eligible roots by EL_ROOTS_PER_SHARD"
    reasons = ineligible(facts, settings)
    return f"make more documents eligible as roots, since all {eligible:,} are taken" + (reasons and f" ({reasons})")


# (table, its fact that counts the stage's results, function that explains a count of zero), in the order of the stages.
STAGES = (
    ("documents", "documents", no_documents),
    ("entropy_maps", "rows", no_roots),
    ("entropy_maps", "anchors", no_anchors),
    ("candidate_contexts", "retrieved_pairs", no_candidates),
    ("verified_pairs", "contexts", no_contexts),
    ("packed_sequences", "sequences", no_sequences),
)


def set_aside(stamps: Iterable[Stamp]) -> str:
    """Return the number of rows set aside, by reason and in brackets; empty if there are none."""
    counts = added([stamp.facts for stamp in stamps]).get("set_aside")
    return f" (set aside: {by_reason(counts)})" if counts else ""


def by_reason(counts: Mapping[str, int]) -> str:
    """Return counts in words, the largest first.

    Example:
        too_short 12, too_long_for_window 3
    """
    return ", ".join(
        f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
