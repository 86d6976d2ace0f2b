"""Which scored contexts are kept, and how many of them chance would have kept.

EntropyLong keeps a context when its ΔI exceeds ε. `beats_controls` (ours) also asks that it exceed every random control
at the same anchor, since some anchors fall for any context. The share that chance keeps is estimated from the controls
at the same anchors: the null pass rate; its ratio to the retrieved pass rate estimates the false-discovery rate (FDR).
Under `beats_controls` each control is tried against the *other* controls (leave-one-out); tried against all of them it
could never pass, and the FDR would be zero by construction. A control faces one rival fewer than a candidate does, so
that estimate errs upwards.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from el_assets.schemas import polars_schema

BOOTSTRAP_SAMPLES = 1000


# Columns of `context_scores` that must all exceed epsilon, by criterion; `verified_pairs` lists them as `<name>s`.
CRITERIA = {"entropy": ("reduction",), "nll": ("nll_reduction",), "both": ("reduction", "nll_reduction")}


@dataclass(frozen=True, kw_only=True)
class KeepRule:
    """When a context is kept.

    Attributes:
        epsilon: what must fall, falls by more than this share.
        criterion: `entropy` (ΔI), `nll` (the true token's NLL) or `both` (the smaller of the two).
        beats_controls: it must also fall by more than under any control at the same anchor.
    """

    epsilon: float
    criterion: str
    beats_controls: bool

    def value(self) -> pl.Expr:
        """The number that the rule compares: the smallest of the criterion's."""
        return pl.min_horizontal(*CRITERIA[self.criterion])


def over_shards(scores: pl.LazyFrame) -> pl.DataFrame:
    """Scores of many shards (their key in `shard`), root ids kept apart: they are unique within a shard only."""
    return scores.with_columns(doc_id=pl.concat_str("shard", "doc_id", separator="\0")).drop("shard").collect()


def judge(scores: pl.DataFrame, rule: KeepRule) -> pl.DataFrame:
    """The scores with `value`, `rival` (the best control at the anchor, other than itself) and `passes`.

    Where an anchor has no (other) control, there is nothing to beat.
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
    """Shares of (anchor, chunk) pairs that pass, and the FDR that they imply.

    Attributes:
        retrieved, null: of retrieved candidates and of random controls; None where there are none.
        fdr: null / retrieved; None where nothing retrieved passes.
        fdr_interval: 95 % bootstrap over roots; where no control passes, zero and the rule of three's bound. None where
            there are fewer than two roots, or where fdr or that of a resample is None.
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
        """For a stamp: rates as shares."""
        return {
            "retrieved_pass_rate": self.retrieved,
            "null_pass_rate": self.null,
            "estimated_fdr": self.fdr,
            "estimated_fdr_interval": list(self.fdr_interval) if self.fdr_interval else None,
        }


def pass_rates(judged: pl.DataFrame, *, seed: int) -> PassRates:
    """Pass rates of retrieved candidates and of controls.

    The interval resamples roots, not pairs: pairs of one root are not independent.
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
    # One resample at a time: a corpus has many roots, and all resamples at once would hold them a thousand times.
    draws = (np.bincount(random.integers(n_roots, size=n_roots), minlength=n_roots) for _ in range(BOOTSTRAP_SAMPLES))
    sums_S4 = np.array([draw_R @ counts_R4 for draw_R in draws])
    retrieved, passing, controls, controls_passing = sums_S4.T
    if not (passing.all() and controls.all()):
        return None  # a resample without a passing candidate has no FDR
    low, high = np.percentile((controls_passing / controls) / (passing / retrieved), [2.5, 97.5])
    if not controls_passing.any():
        # Resampling nothing gives nothing. By the rule of three, what n trials never showed has a rate below 3 / n.
        total = counts_R4.sum(axis=0)
        high = (3 / total[2]) / (total[1] / total[0])
    return float(low), float(high)


def keep_contexts(judged: pl.DataFrame, *, max_uses: int) -> tuple[pl.DataFrame, int]:
    """(the `verified_pairs` table, contexts dropped by the cap on a chunk's uses).

    A context is kept once per root, with all the anchors that it verifies. A chunk is kept for at most `max_uses`
    roots, those that it serves best; 0 sets no cap.
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
