"""Every scale by hand, and what none of them may do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from el_assets.gateau.scales import SCALES, scaled

FINITE = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("none", [3.0, -1.0], [3.0, -1.0]),
        ("minmax", [2.0, 4.0, 10.0], [0.0, 0.25, 1.0]),
        ("minmax", [5.0, 5.0], [0.0, 0.0]),
        ("softmax", [0.0, np.log(3.0)], [0.25, 0.75]),
        ("softmax", [1000.0, 1000.0], [0.5, 0.5]),
        ("zscore", [1.0, 3.0], [-1.0, 1.0]),
        ("zscore", [7.0, 7.0, 7.0], [0.0, 0.0, 0.0]),
        ("rank", [10.0, 30.0, 20.0], [0.0, 1.0, 0.5]),
        ("rank", [1.0, 1.0, 5.0], [0.25, 0.25, 1.0]),
        ("rank", [4.0], [0.5]),
        ("rank", [2.0, 2.0], [0.5, 0.5]),
        ("zscore", [4.0], [0.0]),
        ("minmax", [], []),
    ],
)
def test_by_hand(name: str, values: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(scaled(np.array(values), name), expected)


@pytest.mark.parametrize("name", sorted(SCALES))
@given(values=FINITE)
def test_the_result_is_finite_and_keeps_the_order(name: str, values: list[float]) -> None:
    found = scaled(np.array(values), name)
    assert np.isfinite(found).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= -1e-12).all()


def test_ranks_ignore_how_far_an_outlier_is() -> None:
    near, far = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 1e300])
    np.testing.assert_array_equal(scaled(near, "rank"), scaled(far, "rank"))
    assert scaled(far, "minmax")[:3].max() < 1e-290, "which is what an outlier does to minmax"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        scaled(np.array([1.0, bad, 2.0]), "rank")


def test_an_unknown_scale_is_named() -> None:
    with pytest.raises(ValueError, match="'percentile' is unknown"):
        scaled(np.array([1.0]), "percentile")
