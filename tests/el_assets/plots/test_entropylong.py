import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from el_assets.plots.drawing import DOTS, dots, png
from el_assets.plots.entropylong import (
    context_distances,
    contexts_per_root,
    entropy_histogram,
    retrieval_overview,
    scores_overview,
    sequence_fill,
    throughput,
    tokens_by_kind,
)
from el_assets.tables.schemas import polars_schema


def maps(*anchors: list[int]) -> pl.DataFrame:
    """Roots of five tokens with the given anchors."""
    rows = [
        {"entropy_nats": [5.0, 4.0, 0.5, 6.0, 0.0], "anchors": own, "mean_nats": 3.1, "threshold_nats": 4.5}
        for own in anchors
    ]
    schema = {name: polars_schema("entropy_maps")[name] for name in ("entropy_nats", "anchors")}
    return pl.DataFrame(rows, schema={**schema, "mean_nats": pl.Float64, "threshold_nats": pl.Float64})


def scores(retrieved: list[float], controls: list[float]) -> pl.DataFrame:
    values = [(False, 0.5, value) for value in retrieved] + [(True, None, value) for value in controls]
    schema = {"is_control": pl.Boolean, "similarity": pl.Float32, "reduction": pl.Float32}
    return pl.DataFrame(values, schema=schema, orient="row")


def candidates(*chunks: list[str]) -> pl.DataFrame:
    """Anchors that retrieve the given chunks, each less similar by 0.1 than the one before; each with a control."""
    rows = [
        row
        for anchor, own in enumerate(chunks)
        for row in (
            *(("d", anchor, chunk, rank, 0.9 - 0.1 * rank, False) for rank, chunk in enumerate(own)),
            ("d", anchor, "random", None, None, True),
        )
    ]
    names = ("doc_id", "anchor", "chunk_id", "rank", "similarity", "is_control")
    schema = {name: polars_schema("candidate_contexts")[name] for name in names}
    return pl.DataFrame(rows, schema=schema, orient="row")


def segment(kind: str, start: int, end: int, anchors: list[int] | None = None) -> dict[str, object]:
    names = dict.fromkeys(("doc_id", "chunk_id", "chunk_shard", "reductions"))
    return {**names, "kind": kind, "start": start, "end": end, "cut": 0, "anchors": anchors}


def sequences(*segments: dict[str, object]) -> pl.DataFrame:
    schema = {name: polars_schema("packed_sequences")[name] for name in ("sequence_id", "segments")}
    rows = [{"sequence_id": "s", "segments": list(segments)}] if segments else []
    return pl.DataFrame(rows, schema=schema)


TWO_GROUPS = sequences(
    segment("context", 0, 10, [3, 7]),
    segment("separator", 10, 11),
    segment("context", 11, 20, [3]),
    segment("separator", 20, 21),
    segment("root", 21, 40),
    segment("end_of_text", 40, 41),
    segment("context", 41, 50, [0]),
    segment("separator", 50, 51),
    segment("root", 51, 60),
)


@pytest.mark.parametrize(
    "figure",
    [
        lambda: entropy_histogram(maps([0, 3], [3])),
        lambda: entropy_histogram(maps([], [])),
        lambda: entropy_histogram(maps()),
        lambda: retrieval_overview(candidates(["a", "b"], ["a"]), 2),
        lambda: retrieval_overview(candidates(["a"]), 1),
        lambda: retrieval_overview(candidates([str(chunk) for chunk in range(90)], *[["0"]] * 90), 90),
        lambda: retrieval_overview(candidates([]), 2),
        lambda: scores_overview(scores([0.7, 0.1, -30.0], [0.0, 0.2]), 0.4),
        lambda: scores_overview(scores([0.7], []), 0.4),
        lambda: scores_overview(scores([], []), 0.4),
        lambda: contexts_per_root(pl.DataFrame({"doc_id": ["a", "a", "b"]}), roots_without=4),
        lambda: contexts_per_root(pl.DataFrame({"doc_id": ["a"] * 500})),
        lambda: contexts_per_root(pl.DataFrame({"doc_id": []}, schema={"doc_id": pl.String})),
        lambda: sequence_fill(TWO_GROUPS),
        lambda: sequence_fill(sequences()),
    ],
    ids=[
        "anchors", "no-anchors", "no-roots",
        "candidates", "one-candidate", "many-candidates", "no-candidates", "scores", "no-controls", "no-scores",
        "contexts", "many-contexts", "no-contexts", "sequences", "no-sequences",
    ],
)  # fmt: skip
def test_every_figure_becomes_a_small_picture_whatever_the_table_holds(figure: object) -> None:
    picture = png(figure())  # type: ignore[operator]
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) < 40_000
    image = Image.open(io.BytesIO(picture))
    assert (600, 300) <= image.size <= (1000, 500)
    assert len(image.getcolors() or []) > 3, "something is drawn"


def test_retrieval_is_drawn_by_rank_and_by_how_many_anchors_want_a_chunk() -> None:
    similarity, demand = retrieval_overview(candidates(["a", "b"], ["a", "c"], ["a"], []), 2).axes
    band, median = (patch.get_data() for patch in similarity.patches)
    assert median.values.tolist() == pytest.approx([0.9, 0.8])
    assert (band.values.tolist(), band.baseline.tolist()) == (median.values.tolist(), median.values.tolist())
    assert median.edges.tolist() == [0.5, 1.5, 2.5], "ranks are counted from 1"
    assert similarity.get_title() == "2 of 4 anchors have all 2", "an anchor for which nothing was found counts too"
    # b and c are retrieved by one anchor each, a by three; controls are not counted.
    assert demand.patches[0].get_data().values.tolist() == [2, 0, 1]
    assert demand.get_title() == "3 chunks in 5 pairs"


def test_distances_are_from_a_contexts_end_to_the_anchor_in_the_next_root() -> None:
    # Root 1 starts at 21: anchors 3 and 7 stand at 24 and 28. Root 2 starts at 51.
    assert context_distances(TWO_GROUPS)["distance_tokens"].to_list() == [14, 18, 4, 1]


def test_tokens_are_counted_by_kind() -> None:
    assert tokens_by_kind(TWO_GROUPS) == {"context": 28, "end_of_text": 1, "root": 28, "separator": 3}


def test_dots_are_thinned_evenly_and_keep_both_ends() -> None:
    thinned = dots(pl.DataFrame({"x": np.arange(10 * DOTS)}))
    assert thinned.height == DOTS
    assert (thinned["x"][0], thinned["x"][-1]) == (0, 10 * DOTS - 1)
    few = pl.DataFrame({"x": [1, 2]})
    assert dots(few).equals(few)


def test_throughput_shows_the_shards_that_read_a_model() -> None:
    figure = throughput({"entropy_maps": [900.0, 0.0, 1100.0], "context_scores": [0, 0, 0]})
    maps, scores = figure.axes[0].get_lines()
    assert (list(maps.get_xdata()), list(maps.get_ydata())) == ([1, 3], [900, 1100])
    assert len(scores.get_xdata()) == 0
    texts = [text.get_text() for text in throughput({"entropy_maps": [0.0]}).axes[0].texts]
    assert texts == ["no scored shards"]
