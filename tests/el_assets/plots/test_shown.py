import base64

import polars as pl

from el_assets.plots.shown import preview, shown
from el_assets.tables.schemas import polars_schema
from el_resources.settings import Settings


def test_a_preview_shows_five_rows_and_nothing_in_it_is_markup() -> None:
    hostile = "<img src=x onerror=alert(1)> | `x` [a](javascript:b)\nnext " + "long " * 40
    frame = pl.DataFrame({"text": [hostile] * 9, "scores": [[0.123456, 1.0, 2.0, 3.0]] * 9, "none": [None] * 9})
    lines = preview(frame).splitlines()
    assert len(lines) == 2 + 5
    assert lines[2].count("|") == 4, "the table's own bars only"
    assert not set("<>`[]()") & set(lines[2])
    assert "0&#46;" not in lines[2]
    assert "0.1235, 1, 2, … 4 items" in lines[2]
    assert len(lines[2]) < 400


def test_a_table_without_a_picture_of_its_own_shows_first_rows() -> None:
    assert set(shown("documents", pl.LazyFrame({"doc_id": ["a"]}), Settings.load({}))) == {"first_rows"}


def test_a_picture_is_an_embedded_png() -> None:
    schema = polars_schema("verified_pairs")
    found = shown("verified_pairs", pl.LazyFrame(schema=schema), Settings.load({}))
    text = str(found["picture_of_contexts_per_root"].value)
    assert "contexts_per_root_with_any" not in found, "a mean over nothing is left out"
    encoded = text.removeprefix("![picture](data:image/png;base64,").removesuffix(")")
    assert base64.b64decode(encoded, validate=True).startswith(b"\x89PNG")


def test_retrieval_is_followed_over_time_by_its_similarities_without_those_of_controls() -> None:
    frame = pl.DataFrame(
        [("d", 3, "a", 0, 0.75, False), ("d", 3, "b", 1, 0.25, False), ("d", 3, "c", None, None, True)],
        schema=["doc_id", "anchor", "chunk_id", "rank", "similarity", "is_control"],
        orient="row",
    )
    found = shown("candidate_contexts", frame.lazy(), Settings.load({}))
    assert set(found) == {
        "picture_of_retrieval",
        "mean_similarity_of_first_candidates",
        "mean_similarity",
        "first_rows",
    }
    assert (found["mean_similarity_of_first_candidates"], found["mean_similarity"]) == (0.75, 0.5)
