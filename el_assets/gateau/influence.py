"""Influence scores: which samples teach long-range dependence, and which of them to take.

GATEAU (arXiv 2410.15633): score = α·HMP' + (1 - α)·CAS', HMP = Norm(PPL_A) - Norm(PPL_B). Both terms are brought to
one scale before they are added: on their own scales, the larger one alone decides the order (in the published code the
rank correlation is 1.000 with CAS and 0.008 with HMP). The rank correlation of the score with each term is reported.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from el_assets.gateau.scales import Values, rank, scaled
from el_assets.gateau.selectors import SELECTORS
from el_assets.parts import FRACTIONS, subset_size
from el_assets.tables.schemas import polars_schema


def combined(terms: Sequence[tuple[float, Values]], scale: str) -> Values:
    """Return the influence of every sample of the pool: the weighted sum of the terms, each brought to the scale.

    Args:
        terms: weight and values of each.

    Example:
        >>> combined([(0.8, np.array([0.1, 0.9])), (0.2, np.array([0.7, 0.2]))], "rank").round(2).tolist()
        [0.2, 0.8]
    """
    return np.sum([weight * scaled(values, scale) for weight, values in terms], axis=0)


def influence_table(pool: pl.DataFrame, weights: Mapping[str, float], scale: str) -> pl.DataFrame:
    """Return the `influence_scores` table: every sample of the pool, best first; ties in the order of ids.

    Args:
        pool: `shard`, `sample_id` and a column for each selector that is measured (selectors.measured_pool).
        weights: weights of those columns. The columns of other selectors are null.
    """
    score = combined([(weight, pool[name].to_numpy()) for name, weight in weights.items()], scale)
    columns = polars_schema("influence_scores")
    others = [pl.lit(None, dtype).alias(name) for name, dtype in columns.items() if name not in pool.columns]
    return (
        pool.with_columns(others)
        .with_columns(score=pl.Series(score, dtype=pl.Float64))
        .sort(["score", "sample_id", "shard"], descending=[True, False, False])
        .with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int32))
        .select(list(columns))
    )


def rank_correlation(left: Values, right: Values) -> float | None:
    """Return Spearman's ρ; None if one side is constant or there are fewer than two values.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
        0.5
    """
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(rank(left), rank(right))[0, 1])


def shares(table: pl.DataFrame) -> dict[str, float | None]:
    """Return the rank correlation of the final score with each selector's term; None if it is not measured."""
    terms = {selector.column: table[selector.column] for selector in SELECTORS}
    score = table["score"].to_numpy()
    return {
        f"rank_correlation_with_{name}": None if term.null_count() else rank_correlation(score, term.to_numpy())
        for name, term in terms.items()
    }


def is_small_for(n_samples: int, fraction: str) -> bool:
    """Return true if the named fraction of a pool is less than one sample, so that its subset is rounded up to one."""
    return 0 < n_samples * FRACTIONS[fraction] < 1


def select_subset(influence: pl.DataFrame, samples: pl.DataFrame, fraction: str) -> pl.DataFrame:
    """Return the `selected_subsets` table: the best samples with their whole conversations, best first.

    Args:
        samples: `instruction_samples` of all shards, with `shard`.
    """
    chosen = influence.filter(pl.col("rank") < subset_size(influence.height, fraction))
    joined = chosen.join(samples, on=["shard", "sample_id"], how="left").sort("rank")
    return joined.select(list(polars_schema("selected_subsets")))


def roc_auc(positive: Values, negative: Values, *, seed: int, samples: int = 2000) -> Mapping[str, float]:
    """Return the ROC AUC of `positive` over `negative` (ties count half), with a 95 % bootstrap interval."""
    random = np.random.default_rng(seed)

    def area(left: Values, right: Values) -> float:
        difference = left[:, None] - right[None, :]
        return float((difference > 0).mean() + 0.5 * (difference == 0).mean())

    draws = [
        area(random.choice(positive, len(positive)), random.choice(negative, len(negative))) for _ in range(samples)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"auc": area(positive, negative), "low": float(low), "high": float(high)}
