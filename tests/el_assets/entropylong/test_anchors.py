import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from el_assets.entropylong.anchors import (
    RootLimits,
    entropy_map_row,
    entropy_maps_table,
    find_anchors,
    sample_roots,
    seeded_hash,
    threshold,
)
from el_assets.tables.schemas import conform, polars_schema

# Window: 1 BOS + 20 chunk + 2 separator leave 77 of 100 tokens.
LIMITS = RootLimits(shortest=10, longest=50, window=100, chunk=20, separator=2)
ANY_LENGTH = RootLimits(shortest=1, longest=0, window=100, chunk=20, separator=2)


def nats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("n_tokens", "reason"),
    [
        (9, "too_short"),
        (10, None),
        (50, None),
        (51, "too_long_for_root_tokens_max"),
        (77, "too_long_for_root_tokens_max"),
        (78, "too_long_for_window"),
    ],
)
def test_a_roots_length_is_bounded(n_tokens: int, reason: str | None) -> None:
    assert LIMITS.reason_against(n_tokens) == reason


def test_without_a_longest_root_the_window_remains() -> None:
    assert ANY_LENGTH.reason_against(77) is None
    assert ANY_LENGTH.reason_against(78) == "too_long_for_window"


def test_a_window_below_a_context_leaves_nothing() -> None:
    limits = RootLimits(shortest=1, longest=0, window=20, chunk=20, separator=2)
    assert (limits.left_by_window, limits.reason_against(1)) == (0, "too_long_for_window")


def test_ineligible_documents_are_counted_by_reason() -> None:
    chosen, counts = sample_roots(list("abcde"), [5, 20, 9, 100, 30], LIMITS, count=0, seed=0)
    assert chosen == [1, 4]
    assert counts == {"eligible": 2, "too_long_for_window": 1, "too_short": 2}


def test_no_documents_and_none_eligible_give_no_roots() -> None:
    assert sample_roots([], [], LIMITS, count=3, seed=0) == ([], {"eligible": 0})
    assert sample_roots(["a"], [1], LIMITS, count=3, seed=0)[0] == []


@given(names=st.lists(st.text(max_size=4), unique=True, max_size=20), count=st.integers(1, 5), data=st.data())
def test_a_sample_does_not_depend_on_the_order_of_documents(names: list[str], count: int, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(names))
    chosen, counts = sample_roots(names, [5] * len(names), ANY_LENGTH, count=count, seed=1)
    again, _ = sample_roots(shuffled, [5] * len(names), ANY_LENGTH, count=count, seed=1)
    assert {names[index] for index in chosen} == {shuffled[index] for index in again}
    assert len(chosen) == min(count, len(names))
    assert chosen == sorted(chosen)
    assert counts == {"eligible": len(names)}


def test_a_new_document_replaces_at_most_one_root() -> None:
    names = [f"document {number}" for number in range(50)]
    before, _ = sample_roots(names, [5] * 50, ANY_LENGTH, count=10, seed=0)
    after, _ = sample_roots(["new", *names], [5] * 51, ANY_LENGTH, count=10, seed=0)
    kept = {names[index] for index in before} & {["new", *names][index] for index in after}
    assert len(kept) >= 9


def test_seeds_sample_differently() -> None:
    names = [f"document {number}" for number in range(50)]
    samples = {tuple(sample_roots(names, [5] * 50, ANY_LENGTH, count=10, seed=seed)[0]) for seed in range(5)}
    assert len(samples) == 5


def test_a_seeded_hash_is_the_same_everywhere() -> None:
    assert seeded_hash(0, "root", "a") == 0x4A15EFEFE476D981  # printf '0\\0root\\0a' | b2sum -l 64
    assert len({seeded_hash(0, "root", "a"), seeded_hash(1, "root", "a"), seeded_hash(0, "roota")}) == 3


def test_the_threshold_is_mean_plus_alpha_population_deviations() -> None:
    # Mean 2, deviations -1, -1, 2 and so variance (1 + 1 + 4) / 3 = 2.
    mean, std, tau = threshold(nats(1, 1, 4), alpha=0.5)
    assert (mean, std) == (2.0, pytest.approx(2**0.5))
    assert tau == pytest.approx(2 + 0.5 * 2**0.5)


def test_the_threshold_is_summed_in_double_precision() -> None:
    values = np.full(1_000_000, 0.1, dtype=np.float32)
    mean, std, _ = threshold(values, alpha=2.0)
    assert mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)
    assert std == pytest.approx(0.0, abs=1e-9)


def test_anchors_are_strictly_above_the_threshold() -> None:
    assert find_anchors(nats(3, 1, 2, 3.5, 2.5), 2.5, skip=0, cap=0).tolist() == [0, 3]
    assert find_anchors(nats(2, 2, 2), 2.0, skip=0, cap=0).tolist() == []


def test_skipped_positions_are_no_anchors() -> None:
    assert find_anchors(nats(9, 9, 1, 9), 2.0, skip=1, cap=0).tolist() == [1, 3]
    assert find_anchors(nats(9, 9), 2.0, skip=5, cap=0).tolist() == []


def test_a_cap_keeps_the_highest_and_of_equals_the_earlier() -> None:
    assert find_anchors(nats(5, 3, 4, 4, 5, 4), 2.0, skip=0, cap=3).tolist() == [0, 2, 4]
    assert find_anchors(nats(5, 3, 4), 2.0, skip=0, cap=3).tolist() == [0, 1, 2]


@given(
    values=st.lists(st.floats(0, 9, width=32), min_size=1, max_size=30),
    skip=st.integers(0, 5),
    cap=st.integers(1, 5),
)
def test_a_capped_table_holds_the_anchors_of_every_higher_alpha(values: list[float], skip: int, cap: int) -> None:
    """So an α sweep upwards needs no model."""
    entropy = nats(*values)
    taus = [threshold(entropy, alpha)[2] for alpha in (0.5, 1.0, 2.0)]
    collected, *higher = (find_anchors(entropy, tau, skip=skip, cap=cap) for tau in taus)
    for tau, anchors in zip(taus[1:], higher, strict=True):
        assert anchors.tolist() == [position for position in collected.tolist() if entropy[position] > np.float32(tau)]


def test_a_row_holds_scores_threshold_and_anchors() -> None:
    entropy = nats(0, 0, 0, 0, 8, 0, 0, 8)
    row = entropy_map_row("d", "h", np.arange(8), entropy, entropy * 2, alpha=1.0, skip=5, cap=1)
    # Mean 2, variance (6 * 4 + 2 * 36) / 8 = 12.
    table = conform(entropy_maps_table([row]), "entropy_maps")
    found = table.row(0, named=True)
    assert (found["mean_nats"], found["std_nats"]) == (2.0, pytest.approx(12**0.5))
    assert found["threshold_nats"] == pytest.approx(2 + 12**0.5)
    assert (found["anchors"], found["n_above_threshold"]) == ([7], 2)
    assert (found["token_ids"], found["nll_nats"][4]) == (list(range(8)), 16.0)


def test_a_root_of_constant_entropy_has_no_anchors() -> None:
    row = entropy_map_row("d", "h", np.arange(7), np.full(7, 0.7, np.float32), nats(*[1] * 7), alpha=0.0, skip=0, cap=0)
    assert entropy_maps_table([row])["anchors"].to_list() == [[]]
    assert row["n_above_threshold"] == 0


def test_a_table_holds_each_roots_own_lists() -> None:
    def row(doc_id: str, entropy: np.ndarray) -> dict[str, object]:
        return entropy_map_row(doc_id, "h", np.arange(len(entropy)), entropy, entropy * 2, alpha=1.0, skip=1, cap=2)

    rows = [row("a", nats(0, 9, 0, 8, 7, 0, 0, 0, 0)), row("b", nats(1, 1, 1)), row("c", nats(0, 0, 0, 0, 5))]
    table = entropy_maps_table(rows)
    assert table["doc_id"].to_list() == ["a", "b", "c"]
    assert table["token_ids"].to_list() == [list(range(9)), list(range(3)), list(range(5))]
    assert table["entropy_nats"].to_list() == [[0, 9, 0, 8, 7, 0, 0, 0, 0], [1, 1, 1], [0, 0, 0, 0, 5]]
    assert table["nll_nats"].to_list() == [[0, 18, 0, 16, 14, 0, 0, 0, 0], [2, 2, 2], [0, 0, 0, 0, 10]]
    assert table["anchors"].to_list() == [[1, 3], [], [4]]


def test_a_shard_without_roots_is_an_empty_table() -> None:
    assert entropy_maps_table([]).equals(pl.DataFrame(schema=polars_schema("entropy_maps")))
