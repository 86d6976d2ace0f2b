"""Influence by hand: both terms count, no outlier rules, subsets are nested and ready to train on."""

import numpy as np
import polars as pl
import pytest

from el_assets.gateau.hmg import perplexity_gap
from el_assets.gateau.influence import (
    influence_table,
    is_small_for,
    rank_correlation,
    roc_auc,
    select_subset,
    shares,
    subset_size,
)
from el_assets.gateau.selectors import SELECTORS

WEIGHTS = {"hmp": 0.8, "cas": 0.2}


def ranked(
    short: list[float],
    long: list[float],
    cas: list[float],
    *,
    weights: dict[str, float] = WEIGHTS,
    perplexity: str = "log_ppl",
    scale: str = "rank",
) -> pl.DataFrame:
    """Return the `influence_scores` of a pool."""
    readings = np.array(short, dtype=np.float64), np.array(long, dtype=np.float64)
    hmp = perplexity_gap(*readings, normalisation="none", perplexity=perplexity)
    columns = {"hmp": hmp, "cas": np.array(cas, dtype=np.float64)}
    pool = pl.DataFrame({"shard": ["x"] * len(cas), "sample_id": [f"s{n}" for n in range(len(cas))], **columns})
    return influence_table(pool, weights, scale)


def test_the_score_by_hand() -> None:
    # HMP 3, 1, 2 -> ranks 1, 0, 0.5; CAS 0.1, 0.9, 0.5 -> ranks 0, 1, 0.5.
    table = ranked([4, 3, 3], [1, 2, 1], [0.1, 0.9, 0.5])
    assert table["sample_id"].to_list() == ["s0", "s2", "s1"]
    np.testing.assert_allclose(table["score"], [0.8, 0.5, 0.2])
    assert table["hmp"].to_list() == [3, 2, 1]
    assert table["rank"].to_list() == [0, 1, 2]


def test_alpha_turns_the_order_over() -> None:
    table = ranked([4, 3, 3], [1, 2, 1], [0.1, 0.9, 0.5], weights={"hmp": 0.0, "cas": 1.0})
    assert table["sample_id"].to_list() == ["s1", "s2", "s0"]


@pytest.mark.parametrize("scale", ["softmax", "minmax", "zscore", "rank"])
@pytest.mark.parametrize("perplexity", ["ppl", "log_ppl"])
def test_neither_term_is_ignored(scale: str, perplexity: str) -> None:
    random = np.random.default_rng(0)
    short, long, cas = (random.uniform(1, 3, 200) for _ in range(3))
    weights = {"hmp": 0.6, "cas": 0.4}
    table = ranked(list(short), list(long), list(cas), weights=weights, perplexity=perplexity, scale=scale)
    share = shares(table)
    by_hmp, by_cas = share["rank_correlation_with_hmp"], share["rank_correlation_with_cas"]
    assert by_hmp is not None
    assert by_cas is not None
    assert min(by_hmp, by_cas) > 0.2


def test_one_exploding_perplexity_moves_one_rank_only() -> None:
    calm = ranked([4, 3, 3.5, 2], [1, 2, 1, 1], [0.1, 0.9, 0.5, 0.3])
    exploded = ranked([4e3, 3, 3.5, 2], [1, 2, 1, 1], [0.1, 0.9, 0.5, 0.3])
    assert calm["sample_id"].to_list() == exploded["sample_id"].to_list()
    np.testing.assert_allclose(calm["score"], exploded["score"])


def test_ties_keep_the_order_of_ids_and_a_single_sample_is_a_pool() -> None:
    table = ranked([2, 2, 2], [1, 1, 1], [0.5, 0.5, 0.5])
    assert table["sample_id"].to_list() == ["s0", "s1", "s2"]
    single = ranked([2], [1], [0.5])
    assert single["score"].to_list() == [0.5]
    assert shares(single) == {f"rank_correlation_with_{one.column}": None for one in SELECTORS}


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([10.0, 100, 1000])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(0.8)


def test_areas_by_hand() -> None:
    assert roc_auc(np.array([3.0, 4.0]), np.array([1.0, 2.0]), seed=0)["auc"] == 1
    assert roc_auc(np.array([1.0]), np.array([1.0]), seed=0)["auc"] == 0.5
    mixed = roc_auc(np.array([2.0, 4.0]), np.array([1.0, 3.0]), seed=0)
    assert mixed["auc"] == 0.75
    assert mixed["low"] <= 0.75 <= mixed["high"]


def test_subsets_round_up_and_any_pool_has_its_best_sample() -> None:
    names = ("top_10_percent", "top_30_percent", "top_50_percent")
    assert [subset_size(319, name) for name in names] == [32, 96, 160]
    assert [subset_size(6, name) for name in names] == [1, 2, 3]
    assert [subset_size(10, name) for name in names] == [1, 3, 5], "a whole number stays itself"
    assert [subset_size(1, name) for name in names] == [1, 1, 1]
    assert [subset_size(0, name) for name in names] == [0, 0, 0]
    # 0.1, 0.3 and 0.5 as floats give 4 of 30, or 3 of 9.
    assert all(
        subset_size(10 * n, name) == n * k for n in range(1, 200) for name, k in zip(names, (1, 3, 5), strict=True)
    )


def test_a_pool_is_small_for_a_subset_if_it_has_less_than_one_sample_for_it() -> None:
    assert [is_small_for(n, "top_10_percent") for n in (0, 1, 9, 10)] == [False, True, True, False]
    assert [is_small_for(n, "top_50_percent") for n in (1, 2)] == [True, False]


def test_a_subset_holds_the_conversations_as_they_came_in() -> None:
    influence = ranked([4, 3, 3], [1, 2, 1], [0.1, 0.9, 0.5])
    conversations = [[{"role": "human", "content": f"i{n}"}, {"role": "gpt", "content": None}] for n in range(3)]
    samples = pl.DataFrame(
        {
            "shard": ["x"] * 3,
            "sample_id": ["s0", "s1", "s2"],
            "messages": conversations,
            "original": ["[0]", "[1]", "[2]"],
            "kept_columns": ['{"n": 0}', None, None],
            "source": ["jsonl:here"] * 3,
            "license": ["MIT", None, None],
        }
    )
    chosen = select_subset(influence, samples, "top_50_percent")
    assert chosen["sample_id"].to_list() == ["s0", "s2"]
    assert chosen["messages"].to_list() == [conversations[0], conversations[2]]
    assert chosen.select("original", "kept_columns").rows() == [("[0]", '{"n": 0}'), ("[2]", None)]
    assert chosen["license"].to_list() == ["MIT", None], "what is trained on says under which licence"
