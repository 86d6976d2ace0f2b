"""Influence scores: which samples teach long-range dependence, and which of them to take.

GATEAU (arXiv 2410.15633): score = α·HMP' + (1 - α)·CAS', HMP = Norm(PPL_A) - Norm(PPL_B). Both terms are brought to
one scale before they are added: on their own scales, the larger one alone decides the order (in the published code the
rank correlation is 1.000 with CAS and 0.008 with HMP). The rank correlation of the score with each term is reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from el_assets.gateau.cam import HIGHEST_NLL_NATS
from el_assets.gateau.scales import Values, rank, scaled
from el_assets.parts import FRACTIONS, subset_size
from el_assets.tables.schemas import polars_schema
from el_resources.store.shard_tables import ShardTables


@dataclass(frozen=True, kw_only=True)
class InfluenceRule:
    """The rule that combines HMP and CAS into one score.

    Attributes:
        alpha: weight of HMP. The paper: 0.8 if the pool is mixed with much short data, 0.7 if with little.
        hmp_normalisation: `Norm` of HMP, over the pool.
        perplexity: `ppl`, or `log_ppl`, which a single huge perplexity does not dominate.
        scale: the scale that HMP and CAS are brought to before they are added.
    """

    alpha: float
    hmp_normalisation: str
    perplexity: str
    scale: str

    def hmp(self, nll_short_nats: Values, nll_long_nats: Values) -> Values:
        """Return the HMP of every sample of the pool.

        Example:
            >>> rule = InfluenceRule(alpha=0.8, hmp_normalisation="none", perplexity="log_ppl", scale="rank")
            >>> rule.hmp(nll_short_nats=np.array([3.0, 2.0]), nll_long_nats=np.array([1.0, 2.5])).tolist()
            [2.0, -0.5]
        """
        short, long = (self._perplexity(nll) for nll in (nll_short_nats, nll_long_nats))
        return scaled(short, self.hmp_normalisation) - scaled(long, self.hmp_normalisation)

    def score(self, hmp: Values, cas: Values | None) -> Values:
        """Return the influence of every sample of the pool; without CAS it is HMP alone.

        Example:
            >>> rule = InfluenceRule(alpha=0.8, hmp_normalisation="none", perplexity="log_ppl", scale="rank")
            >>> rule.score(np.array([0.1, 0.9]), np.array([0.7, 0.2])).round(2).tolist()
            [0.2, 0.8]
        """
        if cas is None:
            return scaled(hmp, self.scale)
        return self.alpha * scaled(hmp, self.scale) + (1 - self.alpha) * scaled(cas, self.scale)

    def _perplexity(self, nll_nats: Values) -> Values:
        return nll_nats if self.perplexity == "log_ppl" else np.exp(np.minimum(nll_nats, HIGHEST_NLL_NATS))


def influence_table(hmg: pl.DataFrame, cam: pl.DataFrame | None, rule: InfluenceRule) -> pl.DataFrame:
    """Return the `influence_scores` table: every sample with both scores, best first; ties in the order of ids.

    Args:
        hmg: `hmg_scores` of all shards, with `shard`.
        cam: `cam_scores` of all shards, with `shard` and `cas`; None if awareness is not measured. Then influence is
            HMP alone, and the column `cas` is null.
    """
    if cam is None:
        pool = hmg.with_columns(cas=pl.lit(None, dtype=pl.Float64))
    else:
        pool = hmg.join(cam.select("shard", "sample_id", "cas"), on=["shard", "sample_id"], how="inner")
    pool = pool.sort("shard", "sample_id")
    hmp = rule.hmp(pool["nll_short_nats"].to_numpy(), pool["nll_long_nats"].to_numpy())
    scored = pool.select("shard", "sample_id", "cas").with_columns(
        hmp=pl.Series(hmp, dtype=pl.Float64),
        score=pl.Series(rule.score(hmp, None if cam is None else pool["cas"].to_numpy()), dtype=pl.Float64),
    )
    ranked = scored.sort(["score", "sample_id", "shard"], descending=[True, False, False]).with_columns(
        rank=pl.int_range(pl.len(), dtype=pl.Int32)
    )
    return ranked.select(list(polars_schema("influence_scores")))


def has_cas(tables: ShardTables) -> bool:
    """Return false if the ranking was made without awareness."""
    return bool(tables.require_stamp("influence_scores").settings.get("cam", True))


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
    """Return the rank correlation of the final score with each term; None for CAS if it is not measured."""
    terms = {name: table[name] for name in ("hmp", "cas")}
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
