"""EntropyLong's rows and warnings in the summary of a run."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from el_assets.entropylong.diagnosis import (
    TABLES_LOOKED_AT,
    added,
    by_reason,
    set_aside,
    stamps_of,
    why_nothing,
    why_unfilled,
)
from el_assets.entropylong.selection import KeepRule, PassRates, judge, over_shards, pass_rates
from el_assets.tables.finite import OTHER_DTYPE, not_finite
from el_resources.settings import Settings
from el_resources.store.shard_tables import KnownStamps, ShardTables
from el_resources.store.stamps import Stamp

# Most shards for which a warning is printed.
WARNINGS_SHOWN = 5


def entropylong_rows(settings: Settings, tables: KnownStamps, shards: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label, value) rows on the documents, chunks and sequences that exist."""
    tables.read_ahead(TABLES_LOOKED_AT, shards)
    return [*_corpus_rows(tables, shards), *_sequence_rows(settings, tables, shards)]


def _corpus_rows(tables: ShardTables, shards: Sequence[str]) -> list[tuple[str, str]]:
    documents, chunks = tables.stamps("documents", shards), tables.stamps("context_chunks", shards)
    rows = [("documents", f"{_total(documents, 'documents'):,}{set_aside(documents.values())}")]
    if chunks:
        rows.append(("chunks", f"{_total(chunks, 'chunks'):,}"))
    return rows


def _sequence_rows(settings: Settings, tables: ShardTables, shards: Sequence[str]) -> list[tuple[str, str]]:
    packed = tables.stamps("packed_sequences", shards)
    if not packed:
        return []
    maps, scores = tables.stamps("entropy_maps", packed), tables.stamps("context_scores", packed)
    pairs = tables.stamps("verified_pairs", packed)
    packed_tokens, context_tokens = _total(packed, "packed_tokens"), _total(packed, "context_tokens")
    share = f"{100 * context_tokens / packed_tokens:.0f} %" if packed_tokens else "-"
    units, per_pair = _total(scores, "units"), _total(scores, "per_pair_forwards")
    return [
        ("roots", f"{_total(maps, 'rows'):,} of {_total(maps, 'documents_eligible'):,} eligible{_not_eligible(maps)}"),
        ("anchors", f"{_total(maps, 'anchors'):,}"),
        ("pairs scored", f"{per_pair:,} in {units:,} forwards"),
        *_rate_rows(settings, tables, packed),
        ("verified contexts", f"{_total(pairs, 'contexts'):,} for {_total(pairs, 'roots_with_contexts'):,} roots"),
        ("share of packed tokens", f"{share} contexts, the rest roots and joints"),
        ("sequences", f"{_total(packed, 'sequences'):,} of {settings.sequence_tokens:,} tokens, {_per_shard(packed)}"),
    ]


def entropylong_warnings(tables: ShardTables, shards: Sequence[str]) -> list[str]:
    """Return warnings about sequences: shards without any, with the reason, and scores set aside as NaN or infinite."""
    packed = tables.stamps("packed_sequences", shards)
    empty = [shard for shard in packed if why_unfilled(tables, shard)]
    if empty and len(empty) == len(packed):
        nothing = [f"no sequence: {why_nothing(stamps_of(tables, empty))}"]
    else:
        nothing = [f"no sequence in {shard}: {why_unfilled(tables, shard)}" for shard in empty]
    lost = [
        f"{name} of {shard}: {line}. {OTHER_DTYPE}"
        for name, kind in (("entropy_maps", "roots"), ("context_scores", "pairs"))
        for shard, stamp in tables.stamps(name, packed).items()
        for line in not_finite(stamp.facts, kind)
    ]
    return [*_first(nothing), *_first(lost)]


def _first(lines: list[str]) -> list[str]:
    """Return the first lines, and a line that counts the rest."""
    more = len(lines) - WARNINGS_SHOWN
    return [*lines[:WARNINGS_SHOWN], *([f"and {more} more shards like these"] if more > 0 else [])]


def _not_eligible(maps: dict[str, Stamp]) -> str:
    reasons = added([stamp.facts for stamp in maps.values()]).get("documents_not_eligible")
    return f" (not eligible: {by_reason(reasons)})" if reasons else ""


def _rate_rows(settings: Settings, tables: ShardTables, packed: dict[str, Stamp]) -> list[tuple[str, str]]:
    """Return rows of the pass rates over all shards: by epsilon alone, and by the whole rule of the tables."""
    scores = over_shards(tables.scan_many("context_scores", packed))
    made_under = next(iter(tables.stamps("verified_pairs", packed).values())).settings
    rule = KeepRule(**{name: made_under[name] for name in ("epsilon", "criterion", "beats_controls")})
    rows = [
        (
            f"pass ε = {rule.epsilon} alone",
            _rates(scores, KeepRule(**{**_fields(rule), "beats_controls": False}), settings.seed),
        )
    ]
    if rule.beats_controls:
        rows.append(("  and beat all controls", _rates(scores, rule, settings.seed)))
    return rows


def _fields(rule: KeepRule) -> dict[str, Any]:
    return {"epsilon": rule.epsilon, "criterion": rule.criterion, "beats_controls": rule.beats_controls}


def _rates(scores: pl.DataFrame, rule: KeepRule, seed: int) -> str:
    rates: PassRates = pass_rates(judge(scores, rule), seed=seed)
    retrieved, null = (f"{100 * rate:.1f} %" if rate is not None else "-" for rate in (rates.retrieved, rates.null))
    interval = f" [{rates.fdr_interval[0]:.2f}, {rates.fdr_interval[1]:.2f}]" if rates.fdr_interval else ""
    fdr = f"{rates.fdr:.2f}{interval}" if rates.fdr is not None else "-"
    return f"retrieved {retrieved}, random {null}, estimated FDR {fdr}"


def _total(stamps: dict[str, Stamp], fact: str) -> int:
    return sum(int(stamp.facts.get(fact, 0)) for stamp in stamps.values())


def _per_shard(packed: dict[str, Stamp]) -> str:
    counts = [int(stamp.facts["sequences"]) for stamp in packed.values()]
    return f"{min(counts)} to {max(counts)} a shard"
