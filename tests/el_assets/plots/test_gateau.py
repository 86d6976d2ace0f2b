import numpy as np
import polars as pl
import pytest

from el_assets.plots.drawing import png
from el_assets.plots.gateau import _by_place, attention_and_importance, influence_plane, readings, smallest_subset


def influence(n: int) -> pl.DataFrame:
    values = np.linspace(1, 0, n)
    return pl.DataFrame({"hmp": values, "cas": values, "rank": np.arange(n)})


def cam(*samples: tuple[list[int], list[float], list[float]]) -> pl.DataFrame:
    schema = {
        "segment_tokens": pl.List(pl.Int32),
        "segment_attention": pl.List(pl.Float32),
        "segment_nll_nats": pl.List(pl.Float32),
    }
    return pl.DataFrame(samples, schema=schema, orient="row")


WITH_CONTEXT, WITHOUT = ([100, 100, 50], [0.1, 0.3, 0.2], [3.0, 1.0, 2.0]), ([], [], [])


@pytest.mark.parametrize(
    "figure",
    [
        lambda: influence_plane(influence(30)),
        lambda: influence_plane(influence(1)),
        lambda: attention_and_importance(cam(WITH_CONTEXT, WITHOUT)),
        lambda: attention_and_importance(cam(WITHOUT)),
        lambda: readings(pl.DataFrame({"nll_short_nats": [2.0], "nll_long_nats": [1.0]})),
    ],
    ids=["pool", "one-sample", "contexts", "no-contexts", "readings"],
)
def test_every_figure_becomes_a_small_picture_whatever_the_table_holds(figure: object) -> None:
    picture = png(figure())  # type: ignore[operator]
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) < 40_000


def test_a_sample_is_marked_by_the_smallest_subset_that_holds_it() -> None:
    marked = influence(10).select(smallest_subset(10)).to_series().to_list()
    assert marked == ["top_10_percent", *["top_30_percent"] * 2, *["top_50_percent"] * 2, *["not selected"] * 5]


def test_segments_are_laid_over_each_other_by_their_place() -> None:
    # Two equal halves: attention a token is 0.001 and 0.003, so 1 and 3 per 1,000 tokens.
    halves = cam(([100, 100], [0.1, 0.3], [3.0, 1.0]))
    assert _by_place(halves, "segment_attention").tolist() == pytest.approx([1.0] * 10 + [3.0] * 10)
    assert _by_place(halves, "segment_nll_nats").tolist() == pytest.approx([3.0] * 10 + [1.0] * 10)
