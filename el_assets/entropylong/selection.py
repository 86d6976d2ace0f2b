"""Selection of scored contexts, and an estimate of the share of kept contexts that are kept by chance.

EntropyLong keeps a context if its ΔI exceeds ε. `beats_controls` (an addition of this project) also requires that ΔI
exceeds that of every random control at the same anchor, since at some anchors any context lowers the entropy. The pass
rate of the controls (null pass rate) is what chance keeps. Divided by the pass rate of the retrieved chunks, it
estimates the false-discovery rate (FDR).

With `beats_controls` each control competes with the *other* controls only (leave-one-out): no control can exceed
itself, so otherwise the FDR would always be zero. A control has one rival fewer than a candidate, so it passes more
easily, and the estimate is a little too high.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from el_assets.tables.schemas import polars_schema

BOOTSTRAP_SAMPLES = 1000

# The number that must exceed epsilon, by criterion: an expression over `reduction` and `nll_reduction`.
CRITERIA: dict[str, pl.Expr] = {
    "entropy": pl.col("reduction"),
    "nll": pl.col("nll_reduction"),
    "both": pl.min_horizontal("reduction", "nll_reduction"),
}


@dataclass(frozen=True, kw_only=True)
class KeepRule:
    """Condition under which a context is kept.

    Attributes:
        epsilon: the relative reduction must exceed this share.
        criterion: reduction of `entropy` (ΔI), of `nll` (of the true token), or the smaller one of `both`.
        beats_controls: the reduction must also exceed that of every control at the same anchor.

    Example:
        >>> rule = KeepRule(epsilon=0.4, criterion="both", beats_controls=False)
        >>> pl.DataFrame({"reduction": [0.9], "nll_reduction": [0.3]}).select(rule.value()).item()
        0.3
    """

    epsilon: float
    criterion: str
    beats_controls: bool

    def value(self) -> pl.Expr:
        """Return the number that the rule compares."""
        return CRITERIA[self.criterion]


def over_shards(scores: pl.LazyFrame) -> pl.DataFrame:
    """Collect the scores of many shards; root ids get their shard as a prefix, since they are unique only within it."""
    return scores.with_columns(doc_id=pl.concat_str("shard", "doc_id", separator="\0")).drop("shard").collect()


def judge(scores: pl.DataFrame, rule: KeepRule) -> pl.DataFrame:
    """Add `value`, `rival` (value of the best control at the anchor, other than the row itself) and `passes`.

    If an anchor has no (other) control, `rival` is null and the row need not beat any.
    """
    judged = scores.with_columns(value=rule.value())
    best_two = (
        judged.filter("is_control")
        .group_by("doc_id", "anchor")
        .agg(
            best=pl.col("value").max(),
            best_chunk=pl.col("chunk_id").sort_by("value", "chunk_id").last(),
            second=pl.col("value").sort_by("value", "chunk_id").slice(-2, 1).first(),
            n_controls=pl.len(),
        )
        .with_columns(second=pl.when(pl.col("n_controls") > 1).then("second"))
    )
    is_best_control = pl.col("is_control") & (pl.col("chunk_id") == pl.col("best_chunk"))
    exceeds = pl.col("value") > rule.epsilon
    beats = (pl.col("value") > pl.col("rival")).fill_null(True) if rule.beats_controls else pl.lit(True)
    return (
        judged.join(best_two, on=["doc_id", "anchor"], how="left", maintain_order="left")
        .with_columns(rival=pl.when(is_best_control).then("second").otherwise("best"))
        .with_columns(passes=exceeds & beats)
        .drop("best", "best_chunk", "second", "n_controls")
    )


@dataclass(frozen=True, kw_only=True)
class PassRates:
    """Pass rates of (anchor, chunk) pairs, and the FDR that follows from them.

    Attributes:
        retrieved, null: pass rates of retrieved candidates and of random controls; None if there are none of them.
        fdr: null / retrieved; None if no retrieved candidate passes.
        fdr_interval: 95 % bootstrap interval over roots. If no control passes, it is from 0 to the bound of the rule of
            three. None if there are fewer than two roots, or if a resample has no passing candidate or no control.
    """

    n_retrieved: int
    n_retrieved_passing: int
    n_controls: int
    n_controls_passing: int
    fdr_interval: tuple[float, float] | None

    @property
    def retrieved(self) -> float | None:
        return self.n_retrieved_passing / self.n_retrieved if self.n_retrieved else None

    @property
    def null(self) -> float | None:
        return self.n_controls_passing / self.n_controls if self.n_controls else None

    @property
    def fdr(self) -> float | None:
        return None if self.null is None or not self.retrieved else self.null / self.retrieved

    def facts(self) -> dict[str, object]:
        """Return the rates, as shares, for a stamp."""
        return {
            "retrieved_pass_rate": self.retrieved,
            "null_pass_rate": self.null,
            "estimated_fdr": self.fdr,
            "estimated_fdr_interval": list(self.fdr_interval) if self.fdr_interval else None,
        }


def pass_rates(judged: pl.DataFrame, *, seed: int) -> PassRates:
    """Return the pass rates of retrieved candidates and of controls.

    The interval is over resamples of roots, not of pairs: pairs of one root are not independent.
    """
    per_root = (
        judged.group_by("doc_id", maintain_order=True)
        .agg(
            (~pl.col("is_control")).sum().alias("n_retrieved"),
            (pl.col("passes") & ~pl.col("is_control")).sum().alias("n_retrieved_passing"),
            pl.col("is_control").sum().alias("n_controls"),
            (pl.col("passes") & pl.col("is_control")).sum().alias("n_controls_passing"),
        )
        .sort("doc_id")
        .drop("doc_id")
    )
    counts_R4 = per_root.to_numpy().astype(np.float64)
    totals = [int(total) for total in counts_R4.sum(axis=0)]
    return PassRates(
        n_retrieved=totals[0],
        n_retrieved_passing=totals[1],
        n_controls=totals[2],
        n_controls_passing=totals[3],
        fdr_interval=_fdr_interval(counts_R4, seed),
    )


def _fdr_interval(counts_R4: np.ndarray, seed: int) -> tuple[float, float] | None:
    n_roots = len(counts_R4)
    if n_roots < 2:
        return None  # one root says nothing about others
    random = np.random.default_rng(seed)
    # One resample at a time, since all at once would take a thousand times the memory.
    draws = (np.bincount(random.integers(n_roots, size=n_roots), minlength=n_roots) for _ in range(BOOTSTRAP_SAMPLES))
    sums_S4 = np.array([draw_R @ counts_R4 for draw_R in draws])
    retrieved, passing, controls, controls_passing = sums_S4.T
    if not (passing.all() and controls.all()):
        return None  # a resample without a passing candidate has no FDR
    low, high = np.percentile((controls_passing / controls) / (passing / retrieved), [2.5, 97.5])
    if not controls_passing.any():
        # Resampled zeros are zeros. Rule of three: an event not seen in n trials has a rate below 3 / n (95 %).
        total = counts_R4.sum(axis=0)
        high = (3 / total[2]) / (total[1] / total[0])
    return float(low), float(high)


def keep_contexts(judged: pl.DataFrame, *, max_uses: int) -> tuple[pl.DataFrame, int]:
    """Return (the `verified_pairs` table, number of contexts that the cap on a chunk's uses dropped).

    A root keeps a context once, with all the anchors that it verifies. A chunk is kept for at most `max_uses` roots,
    those with the largest reductions; 0 means no cap.
    """
    pairs = (
        judged.filter(pl.col("passes") & ~pl.col("is_control"))
        .sort("doc_id", "anchor", "chunk_id")
        .group_by("doc_id", "chunk_hash", maintain_order=True)
        .agg(
            pl.col("chunk_id").first(),
            pl.col("chunk_shard").first(),
            anchors=pl.col("anchor").unique(maintain_order=True),
            reductions=pl.col("reduction").filter(pl.col("anchor").is_first_distinct()),
            nll_reductions=pl.col("nll_reduction").filter(pl.col("anchor").is_first_distinct()),
            similarities=pl.col("similarity").filter(pl.col("anchor").is_first_distinct()),
            best_reduction=pl.col("reduction").max(),
        )
        .select(list(polars_schema("verified_pairs")))
        .sort("doc_id", "chunk_id")
    )
    if not max_uses:
        return pairs, 0
    strongest_first = pairs.sort(["best_reduction", "doc_id"], descending=[True, False])
    capped = strongest_first.filter(pl.int_range(pl.len()).over("chunk_hash") < max_uses).sort("doc_id", "chunk_id")
    return capped, pairs.height - capped.height
