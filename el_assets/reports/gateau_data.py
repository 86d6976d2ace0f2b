"""Data of `gateau_report`: funnel, ranking, distributions, and the readers' entries. Nothing is scored."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from el_assets.catalogue import SAMPLE_TABLES
from el_assets.gateau.assets import refuse_changed_samples
from el_assets.gateau.cam import importance
from el_assets.gateau.prompts import cut_context
from el_assets.gateau.samples import refuse_old_samples
from el_assets.gateau.scales import HIGHEST_NLL_NATS
from el_assets.gateau.selectors import CAS, SELECTORS, measured_in, tables_of
from el_assets.parts import FRACTIONS, subset_size
from el_assets.plots import gateau as figures
from el_assets.plots.drawing import svg
from el_assets.reports.common import (
    cost_rows,
    refuse_torn_chain,
    rounded,
    sampled,
    settings_rows,
    shortened,
    token_texts,
    tokenizer_of,
    within_limits,
)
from el_assets.tables.schemas import polars_schema
from el_resources.models.tokenization import ModelTokenizer
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp

SAMPLES_BYTES = 8_000_000
# Characters of all segments of one sample, and the fewest of each.
CONTEXT_CHARACTERS = 24_000
SEGMENT_CHARACTERS = 80
ANSWER_CHARACTERS = 4000
# Kinds of evidence of the embedded pool. Other words are not shown, since they would be text from a source.
EVIDENCE = ("near", "far", "absent")


@dataclass(frozen=True, kw_only=True)
class RankedPool:
    """The samples that `influence_scores` ranks, with their scores of every kind.

    Attributes:
        influence: stamp of the ranking.
        hmg: stamp of the first shard's `hmg_scores`.
        pool: one row per sample, by rank: the columns of all tables, without the texts.
    """

    tables: ShardTables
    shards: list[str]
    influence: Stamp
    hmg: Stamp
    pool: pl.DataFrame

    @classmethod
    def of(cls, tables: ShardTables) -> Self:
        """Read the ranked pool.

        Raises:
            MissingTableError: nothing was ranked yet.
            ValueError: samples or scores have changed since the ranking.
        """
        influence = tables.require_stamp("influence_scores")
        shards = list(influence.facts["shards"])
        stamps = tables.stamps("instruction_samples", shards)
        refuse_changed_samples(influence.facts["samples_fingerprints"], stamps)
        refuse_old_samples(stamps)
        measured = measured_in(tables)
        for scores in tables_of(measured):
            refuse_torn_chain([tables.require_stamp(scores, shards[0]), influence])
        keys = ["shard", "sample_id"]
        hmg = tables.scan_many("hmg_scores", shards)
        cam = tables.scan_many("cam_scores", shards) if CAS in measured else _no_awareness()
        awareness = cam.drop("n_dropped_context_tokens")
        samples = tables.scan_many("instruction_samples", shards).select(
            *keys, "n_instruction_tokens", "evidence", "evidence_distance_tokens", "source"
        )
        pool, stamp = tables.scan("influence_scores"), tables.require_stamp("hmg_scores", shards[0])
        for more in (hmg, awareness, samples):
            pool = pool.join(more, on=keys, how="left")
        return cls(tables=tables, shards=shards, influence=influence, hmg=stamp, pool=pool.sort("rank").collect())


def _no_awareness() -> pl.LazyFrame:
    """Return empty `cam_scores`, for a pool whose awareness is not measured."""
    return pl.LazyFrame(schema={"shard": pl.String(), **polars_schema("cam_scores")})


def report_data(settings: Settings, ranked: RankedPool) -> dict[str, Any]:
    """Return the page's data. Raises ValueError (see tokenizer_of)."""
    tables, shards = ranked.tables, ranked.shards
    measured = measured_in(tables)
    # A store may still hold `cam_scores` from before EL_CAM was switched off; they are no part of this ranking.
    unused = set(tables_of(SELECTORS)) - set(tables_of(measured))
    made = [name for name in SAMPLE_TABLES if name not in unused]
    stamps = [
        *(stamp for name in made for stamp in tables.stamps(name, shards[:1]).values()),
        ranked.influence,
    ]
    return {
        "store": str(tables.store),
        "shards": shards,
        "settings": settings_rows(stamps),
        "costs": [
            *cost_rows(tables, made, shards),
            *cost_rows(tables, ("influence_scores",), ["all"]),
            *cost_rows(tables, ("selected_subsets",), list(FRACTIONS)),
        ],
        "funnel": funnel(ranked),
        "with_cam": CAS in measured,
        "terms": [[one.column, one.called] for one in SELECTORS],
        "correlations": [ranked.influence.facts.get(f"rank_correlation_with_{one.column}") for one in SELECTORS],
        "subsets": [{"name": subset_name(name), "share": float(share)} for name, share in FRACTIONS.items()],
        "evidence": evidence_rows(ranked.pool),
        "samples": sample_entries(ranked, settings),
        "n_samples": ranked.pool.height,
    }


def funnel(ranked: RankedPool) -> list[list[Any]]:
    """Return (stage, count, remark) for every stage from samples to subsets, counted in the tables."""
    samples = ranked.tables.scan_many("instruction_samples", ranked.shards).select("set_aside_reason").collect()
    set_aside = samples.drop_nulls().height
    stamps = ranked.tables.stamps("selected_subsets", FRACTIONS)
    subsets = [
        [
            subset_name(name),
            ranked.tables.read("selected_subsets", name).height,
            "selected",
        ]
        for name in stamps
    ]
    segments = int(ranked.pool["segment_tokens"].list.len().sum())
    return [
        [
            "samples",
            samples.height - set_aside,
            f"{set_aside:,} more were set aside" if set_aside else "none was set aside",
        ],
        [
            "context segments",
            segments,
            "each was read alone, and the attention to it was measured"
            if segments
            else "none was read: CAM is off, or no sample has a context",
        ],
        ["ranked", ranked.pool.height, "both scores exist" if CAS in measured_in(ranked.tables) else "by HMP alone"],
        *reversed(subsets),
    ]


def subset_name(fraction: str) -> str:
    """Return the name of a subset in words, such as `top 10 %`."""
    return fraction.replace("_", " ").replace("percent", "%")


def evidence_rows(pool: pl.DataFrame) -> list[list[Any]]:
    """Return (kind, samples, median rank, samples in each subset) for each kind of evidence that the pool has."""
    rows = []
    for kind in EVIDENCE:
        of_kind = pool.filter(pl.col("evidence") == kind)
        if of_kind.height:
            within = [int((of_kind["rank"] < subset_size(pool.height, name)).sum()) for name in FRACTIONS]
            rows.append([kind, of_kind.height, of_kind["rank"].median(), *within])
    return rows


def draw(ranked: RankedPool) -> dict[str, str]:
    """Draw the page's figures and return them by name."""
    return {
        "plane": svg(figures.influence_plane(ranked.pool), "HMP and CAS of the pool"),
        "readings": svg(figures.readings(ranked.pool), "NLL in both readings"),
        "awareness": svg(figures.attention_and_importance(ranked.pool), "Attention and importance by place"),
    }


def sample_entries(ranked: RankedPool, settings: Settings) -> list[dict[str, Any]]:
    """Return a sample of the pool: scores, rank, and each context segment with attention and importance."""
    tokenizer = tokenizer_of(settings, ranked.hmg)
    rows = {(row["shard"], row["sample_id"]): row for row in ranked.pool.iter_rows(named=True)}
    names = ("context", "instruction", "response", "later_exchanges")

    def entries() -> Iterator[dict[str, Any]]:
        for shard, sample_id in sampled(rows):
            samples = ranked.tables.scan("instruction_samples", shard).filter(pl.col("sample_id") == sample_id)
            (texts,) = samples.filter(pl.col("set_aside_reason").is_null()).select(names).collect().to_dicts()
            yield _sample(rows[shard, sample_id], texts, tokenizer, ranked.influence.settings)

    return within_limits(entries(), n_bytes=SAMPLES_BYTES)


def _sample(
    row: Mapping[str, Any], texts: Mapping[str, Any], tokenizer: ModelTokenizer, made_under: Mapping[str, Any]
) -> dict[str, Any]:
    lengths, scores = row["segment_tokens"] or [], [*(one.column for one in SELECTORS), "score"]
    sign = importance(np.asarray(row["segment_nll_nats"] or [], dtype=np.float64), made_under["importance_sign"])
    return {
        "shard": row["shard"],
        "id": row["sample_id"],
        "source": row["source"],
        **{name: row[name] for name in ("rank", "n_response_tokens", "n_context_tokens", "n_dropped_context_tokens")},
        "n_dropped_short": row["n_dropped_context_tokens_short"],
        **dict(zip(scores, rounded((row.get(name) for name in scores), 4), strict=True)),
        "perplexities": rounded(_perplexity(row[name]) for name in ("nll_short_nats", "nll_long_nats")),
        "rest_attention": rounded([row["rest_attention"]], 4)[0],
        "evidence": row["evidence"] if row["evidence"] in EVIDENCE else None,
        "evidence_segment": _evidence_segment(row),
        "instruction": shortened(texts["instruction"], ANSWER_CHARACTERS),
        "response": shortened(_scored_text(texts), ANSWER_CHARACTERS),
        "lengths": lengths,
        "attention": rounded(row["segment_attention"] or [], 5),
        "nll_alone": rounded(row["segment_nll_nats"] or []),
        "importance": rounded(sign.tolist()),
        "segments": _segment_texts(texts["context"], lengths, tokenizer, made_under["context_cut"]),
    }


def _scored_text(texts: Mapping[str, Any]) -> str:
    """Return the response, followed by the later exchanges that are scored with it."""
    later = [text for one in texts["later_exchanges"] for text in (f"[user] {one['instruction']}", one["response"])]
    return "\n\n".join([texts["response"], *later])


def _perplexity(nll_nats: float) -> float:
    return math.exp(min(nll_nats, HIGHEST_NLL_NATS))


def _evidence_segment(row: Mapping[str, Any]) -> int | None:
    """Return the index of the segment in which the needed passage ends; None if unknown, or if it was cut away."""
    distance, lengths = row["evidence_distance_tokens"], row["segment_tokens"] or []
    if distance is None or not lengths:
        return None
    end = sum(lengths) + row["n_instruction_tokens"] - distance
    after = np.flatnonzero(np.cumsum(lengths) >= end)
    return int(after[0]) if end > 0 and len(after) else None


def _segment_texts(context: str, lengths: Sequence[int], tokenizer: ModelTokenizer, cut: str) -> list[str]:
    """Return the text of each segment of the context as the model read it."""
    ids = cut_context(tokenizer.encode(context), sum(lengths), cut)
    most = max(SEGMENT_CHARACTERS, CONTEXT_CHARACTERS // max(1, len(lengths)))
    ends = np.cumsum(lengths)
    pieces = token_texts(tokenizer, ids.tolist())
    return [shortened("".join(pieces[end - length : end]), most) for end, length in zip(ends, lengths, strict=True)]
