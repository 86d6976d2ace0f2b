"""GATEAU's rows and warnings in the summary of a run."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from el_assets.entropylong.diagnosis import set_aside
from el_assets.gateau.diagnosis import nothing_scorable
from el_assets.gateau.influence import is_small_for, roc_auc
from el_assets.gateau.selectors import CAS, SELECTORS, measured_in, tables_of
from el_assets.parts import FRACTIONS
from el_assets.tables.finite import OTHER_DTYPE, not_finite
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp


def gateau_rows(settings: Settings, tables: ShardTables, pool: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label, value) rows on the samples, scores, ranking and subsets that exist."""
    samples = tables.stamps("instruction_samples", pool)
    n_samples = sum(int(stamp.facts["samples"]) for stamp in samples.values())
    rows = [("instruction samples", f"{n_samples:,}{set_aside(samples.values())}")]
    influence = tables.stamp("influence_scores")
    if influence is None:
        return rows
    hmg = tables.scan_many("hmg_scores", influence.facts["shards"]).collect()
    gap = np.median(hmg["nll_short_nats"].to_numpy() - hmg["nll_long_nats"].to_numpy())
    cut = np.mean(hmg["n_dropped_context_tokens"].to_numpy() > 0)
    cam_off = (
        [] if CAS in measured_in(tables) else [("awareness", "not measured (EL_CAM=false): influence is HMP alone")]
    )
    measured = measured_in(tables)
    by_term = [
        f"with {one.called} {correlation_in_words(influence, one.column) if one in measured else 'not measured'}"
        for one in SELECTORS
    ]
    subsets = tables.stamps("selected_subsets", FRACTIONS)
    return [
        *rows,
        (
            "guidance",
            f"median NLL short - long {gap:.2f} nats ({settings.hmg_form}{_windows(tables, influence)}), "
            f"{100 * cut:.0f} % of contexts cut",
        ),
        *cam_off,
        (
            "share in the ranking",
            f"rank correlation {', '.join(by_term)}",
        ),
        *_auc_row(settings, tables, list(influence.facts["shards"])),
        ("selected", ", ".join(f"{name} {stamp.facts['samples']:,}" for name, stamp in subsets.items())),
        *_small_pool_row(int(influence.facts["samples"]), list(subsets)),
    ]


def _windows(tables: ShardTables, influence: Stamp) -> str:
    """Return the windows of both readings in words, from the first shard's stamp; empty if it does not record them."""
    facts = tables.require_stamp("hmg_scores", influence.facts["shards"][0]).facts
    if "short_window_tokens" not in facts:
        return ""
    return f", windows of {facts['short_window_tokens']:,} and {facts['window_tokens']:,} tokens"


def _small_pool_row(n_samples: int, subsets: Sequence[str]) -> list[tuple[str, str]]:
    """Return a row if the pool is so small that a subset is a single sample."""
    small = [name for name in subsets if is_small_for(n_samples, name)]
    if not small:
        return []
    return [("small pool", f"{n_samples} samples are too few for {', '.join(small)}, which is the best sample alone")]


def gateau_warnings(tables: ShardTables, pool: Sequence[str]) -> list[str]:
    """Return warnings about the pool: why no sample can be scored, and scores set aside as NaN or infinite."""
    stamps = tables.stamps("instruction_samples", pool).values()
    nothing = nothing_scorable([stamp.facts for stamp in stamps]) if stamps else None
    # Stored tables of other selectors may be from before these were switched off.
    assets = tables_of(measured_in(tables) if tables.has("influence_scores") else SELECTORS)
    scored = [stamp for asset in assets for stamp in tables.stamps(asset, pool).values()]
    lost = [f"{s.asset} of {s.partition}: {line}" for s in scored for line in not_finite(s.facts, "samples")]
    return [*([f"no sample can be scored: {nothing}"] if nothing else []), *(f"{line}. {OTHER_DTYPE}" for line in lost)]


def _auc_row(settings: Settings, tables: ShardTables, shards: list[str]) -> list[tuple[str, str]]:
    """Return a row on the ranks of far samples, if the pool records which these are."""
    samples = tables.scan_many("instruction_samples", shards).select("shard", "sample_id", "evidence").collect()
    joined = tables.read("influence_scores").join(samples, on=["shard", "sample_id"], how="left")
    known = joined.filter(pl.col("evidence").is_not_null())
    far = (known["evidence"] == "far").to_numpy()
    if not len(far) or far.all() or not far.any():
        return []
    found = []
    for name in (*(one.column for one in measured_in(tables)), "score"):
        values = known[name].to_numpy().astype(np.float64)
        auc = roc_auc(values[far], values[~far], seed=settings.seed)
        found.append(f"{name} {auc['auc']:.2f} [{auc['low']:.2f}, {auc['high']:.2f}]")
    return [("far above near, absent", "AUC " + ", ".join(found))]


def correlation_in_words(influence: Stamp, term: str) -> str:
    """Return the rank correlation of the score with a term in words, or the reason why there is none."""
    value = influence.facts[f"rank_correlation_with_{term}"]
    if value is not None:
        return f"{value:.2f}"
    return "none (one sample)" if influence.facts["samples"] < 2 else "none (it, or the score, is the same for all)"
