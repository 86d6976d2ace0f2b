"""Checks of instruction samples, their scores, and the selected subsets."""

import math
from itertools import pairwise

import dagster as dg
import polars as pl

from el_assets.gateau.assets import cam_scores, hmg_scores, influence_scores, instruction_samples, selected_subsets
from el_assets.gateau.influence import is_small_for, roc_auc
from el_assets.gateau.samples import is_current
from el_assets.gateau.selectors import CAS, measured_in
from el_assets.partitions import instruction_shards
from el_assets.parts import FRACTIONS, subset_size
from el_assets.tables.finite import OTHER_DTYPE, not_finite
from el_assets.tables.shard_checks import all_shards_check, result, shard_check
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables

ATTENTION_TOLERANCE = 1e-4
WARN = dg.AssetCheckSeverity.WARN
RESCORE = f"If the samples of the shard have changed since, run the job score_samples. Else: {OTHER_DTYPE}"
RANK_ANEW = (
    "The table was altered after it was written, or the code is wrong: run the job select_samples with the setting "
    "force, and report it if it fails again"
)


def samples_are_readable(tables: ShardTables, shard: str) -> list[str]:
    """Every shard's source file could be read in its format."""
    problem = tables.require_stamp("instruction_samples", shard).facts.get("unreadable")
    return [str(problem)] if problem else []


def rows_add_up(tables: ShardTables, shard: str) -> list[str]:
    """The scored samples and the samples set aside, counted by reason, add up to the rows of the source."""
    facts = tables.require_stamp("instruction_samples", shard).facts
    n_rows, n_scored = facts.get("source_rows", 0), facts["samples"]  # a file that was refused has no rows
    n_aside = sum(facts.get("set_aside", {}).values())
    whole = n_scored + n_aside == facts["rows"] == n_rows
    return [] if whole else [f"of {n_rows} rows {n_scored} are scored and {n_aside} set aside"]


def conversations_are_unique_over_shards(tables: ShardTables, shards: list[str]) -> dict[str, list[str]]:
    """No conversation is in two shards; copies take up places in the subsets that other samples could have."""
    stamps = tables.stamps("instruction_samples", shards)
    current = [shard for shard, stamp in stamps.items() if is_current(stamp)]
    if not current:
        return {}
    samples = tables.scan_many("instruction_samples", current)
    used = samples.filter(pl.col("set_aside_reason").is_null()).select("sample_id", "shard", "content_hash").collect()
    twins = used.filter(pl.col("content_hash").is_duplicated()).group_by("content_hash").agg("sample_id", "shard")
    return {hash_[:8]: [f"{ids} in {where}"] for hash_, ids, where in twins.sort("content_hash").iter_rows()}


def every_sample_is_guided(tables: ShardTables, shard: str) -> list[str]:
    """Every sample that is not set aside has finite, non-negative NLLs in both readings."""
    return _unscored(tables, shard, "hmg_scores", ["nll_short_nats", "nll_long_nats"])


def every_sample_has_awareness(tables: ShardTables, shard: str) -> list[str]:
    """Every sample that is not set aside has finite, non-negative NLLs with its context and with each segment."""
    unscored = _unscored(tables, shard, "cam_scores", ["nll_nats"])
    alone = tables.read("cam_scores", shard, ["sample_id", "segment_nll_nats"]).explode("segment_nll_nats")
    wrong = alone.filter(~(pl.col("segment_nll_nats").is_finite() & (pl.col("segment_nll_nats") >= 0)))
    return unscored + [f"sample {sample_id!r} has NLL {nll} with one segment" for sample_id, nll in wrong.iter_rows()]


def guided_samples_have_finite_scores(tables: ShardTables, shard: str) -> list[str]:
    """No sample had to be set aside because its NLL in one of the readings is NaN or infinite."""
    return not_finite(tables.require_stamp("hmg_scores", shard).facts, "samples")


def aware_samples_have_finite_scores(tables: ShardTables, shard: str) -> list[str]:
    """No sample had to be set aside because one of its attention masses or NLLs is NaN or infinite."""
    return not_finite(tables.require_stamp("cam_scores", shard).facts, "samples")


def attention_sums_to_one(tables: ShardTables, shard: str) -> list[str]:
    """For every sample, attention on segments and rest sums to 1 (per layer, if not all layers reach every segment)."""
    facts = tables.require_stamp("cam_scores", shard).facts
    n_layers = len(facts.get("layer_windows", []))
    if any(int(count) < n_layers for count in facts.get("segments_by_layers", {})):
        error = facts["layer_sum_error"]
        return [] if error <= ATTENTION_TOLERANCE else [f"in one layer the sum is off by {error:.6f}"]
    cam = tables.read("cam_scores", shard, ["sample_id", "segment_attention", "rest_attention"])
    total = pl.col("segment_attention").list.sum().fill_null(0) + pl.col("rest_attention")
    off = cam.with_columns(total=total).filter(~((pl.col("total") - 1).abs() <= ATTENTION_TOLERANCE).fill_null(False))
    return [f"sample {sample_id!r}: {total:.6f}" for sample_id, total in off.select("sample_id", "total").iter_rows()]


@dg.asset_check(asset=influence_scores, blocking=True)
def ranks_are_a_permutation(settings: Settings) -> dg.AssetCheckResult:
    """Ranks count the pool from 0 without gaps or ties, in the order of the scores; all scores are finite."""
    table = ShardTables(settings.store).read("influence_scores").sort("rank")
    found = []
    if table["rank"].to_list() != list(range(table.height)):
        found.append("ranks do not count from 0 without gaps and ties")
    if not table["score"].is_finite().all() or not table["score"].is_sorted(descending=True):
        found.append("scores are not finite, or not in the order of the ranks")
    return result({"influence_scores": found} if found else {}, shards=1, remedy=RANK_ANEW)


@dg.asset_check(asset=influence_scores, blocking=True)
def awareness_is_a_cosine(settings: Settings) -> dg.AssetCheckResult:
    """Every sample's CAS is finite and in [-1, 1]; if EL_CAM=false there is none."""
    tables = ShardTables(settings.store)
    if CAS not in measured_in(tables):
        return dg.AssetCheckResult(passed=True, metadata={"note": "CAM is off: the score is HMP alone"})
    table = tables.read("influence_scores", columns=["sample_id", "cas"])
    outside = table.filter(~pl.col("cas").is_between(-1 - 1e-9, 1 + 1e-9).fill_null(False))
    found = [f"sample {sample_id!r} has CAS {cas}" for sample_id, cas in outside.iter_rows()]
    return result({"influence_scores": found} if found else {}, shards=1, remedy=RANK_ANEW)


@dg.asset_check(asset=influence_scores)
def far_samples_rank_above_the_others(settings: Settings) -> dg.AssetCheckResult:
    """On the embedded pool, samples that need a passage beyond the short window rank above all others.

    Metadata holds the ROC AUC of HMP, of CAS (if it is measured) and of the score, with 95 % bootstrap intervals. Fails
    unless the lower bound of the score's AUC is above 0.5. Passes for a pool that does not record which samples need a
    far passage.
    """
    tables = ShardTables(settings.store)
    pool = _with_evidence(tables)
    if pool.is_empty():
        return dg.AssetCheckResult(
            passed=True, metadata={"note": "the pool does not record where the needed passages are"}
        )
    far = pool["evidence"].to_numpy() == "far"
    if far.all() or not far.any():
        return dg.AssetCheckResult(passed=False, metadata={"what_to_do": "score samples of every kind"})
    terms = (*(one.column for one in measured_in(tables)), "score")
    aucs = {
        name: dict(roc_auc(values[far], values[~far], seed=settings.seed))
        for name, values in ((name, pool[name].to_numpy()) for name in terms)
    }
    return dg.AssetCheckResult(
        passed=aucs["score"]["low"] > 0.5,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "samples": pool.height,
            **{f"auc_{name}": dg.MetadataValue.json(auc) for name, auc in aucs.items()},
            "what_to_do": "If this fails: compare auc_hmp and auc_cas; try another EL_HMG_FORM or EL_INFLUENCE_SCALE",
        },
    )


@dg.asset_check(asset=selected_subsets, blocking=True)
def subsets_are_nested_and_of_the_asked_size(settings: Settings) -> dg.AssetCheckResult:
    """Each subset has its share of the pool, rounded up, and contains the smaller subsets."""
    tables = ShardTables(settings.store)
    pool = tables.read("influence_scores").height
    subsets = {
        name: tables.read("selected_subsets", name) for name in FRACTIONS if tables.has("selected_subsets", name)
    }
    found = {
        name: [f"has {subset.height} of {pool} samples, not {subset_size(pool, name)}"]
        for name, subset in subsets.items()
        if subset.height != subset_size(pool, name)
    }
    ordered = sorted(subsets.items(), key=lambda item: FRACTIONS[item[0]])
    for (small_name, small), (large_name, large) in pairwise(ordered):
        if small.select("shard", "sample_id").join(large, on=["shard", "sample_id"], how="anti").height:
            found.setdefault(large_name, []).append(f"does not hold all of {small_name}")
    return result(found, shards=len(subsets), remedy="Materialize influence_scores, then all selected_subsets")


@dg.asset_check(asset=selected_subsets)
def the_pool_is_large_enough(settings: Settings) -> dg.AssetCheckResult:
    """The pool is large enough for each subset's fraction; a subset of a smaller pool is its single best sample."""
    tables = ShardTables(settings.store)
    pool = tables.read("influence_scores", columns=["rank"]).height
    found = {
        name: [f"a pool of {pool} samples is smaller than {math.ceil(1 / fraction)}, so the subset is its best sample"]
        for name, fraction in FRACTIONS.items()
        if tables.has("selected_subsets", name) and is_small_for(pool, name)
    }
    remedy = "Score more samples, or take a larger subset"
    return result(found, shards=1, remedy=remedy, severity=dg.AssetCheckSeverity.WARN)


def _unscored(tables: ShardTables, shard: str, asset: str, columns: list[str]) -> list[str]:
    wanted = tables.scan("instruction_samples", shard).filter(pl.col("set_aside_reason").is_null()).select("sample_id")
    fine = pl.all_horizontal((pl.col(c).is_finite() & (pl.col(c) >= 0)).fill_null(False) for c in columns)
    missing = wanted.join(tables.scan(asset, shard).filter(fine), on="sample_id", how="anti").collect()
    if missing.height == tables.require_stamp(asset, shard).facts.get("samples_not_finite", 0):
        return []
    return [f"sample {sample_id!r} is not scored" for sample_id in missing["sample_id"]]


def _with_evidence(tables: ShardTables) -> pl.DataFrame:
    shards = list(tables.require_stamp("influence_scores").facts["shards"])
    samples = tables.scan_many("instruction_samples", shards).select("shard", "sample_id", "evidence").collect()
    influence = tables.read("influence_scores")
    return influence.join(samples, on=["shard", "sample_id"], how="left").filter(pl.col("evidence").is_not_null())


CHECKS = [
    shard_check(instruction_samples, samples_are_readable, remedy="Repair or remove the file"),
    shard_check(
        instruction_samples,
        rows_add_up,
        remedy="Report this as a fault of the code, which scores every row or sets it aside",
    ),
    all_shards_check(
        instruction_samples,
        conversations_are_unique_over_shards,
        remedy="Deduplicate the pool over its files",
        partitions=instruction_shards,
    ),
    shard_check(hmg_scores, every_sample_is_guided, remedy=RESCORE, blocking=True),
    shard_check(hmg_scores, guided_samples_have_finite_scores, remedy=OTHER_DTYPE, severity=WARN),
    shard_check(cam_scores, every_sample_has_awareness, remedy=RESCORE, blocking=True),
    shard_check(cam_scores, attention_sums_to_one, remedy=OTHER_DTYPE, blocking=True),
    shard_check(cam_scores, aware_samples_have_finite_scores, remedy=OTHER_DTYPE, severity=WARN),
    ranks_are_a_permutation,
    awareness_is_a_cosine,
    far_samples_rank_above_the_others,
    subsets_are_nested_and_of_the_asked_size,
    the_pool_is_large_enough,
]
