import numpy as np
import polars as pl
import pytest

from el_assets.catalogue import TABLES
from el_assets.tables.schemas import conform, dagster_schema


def test_conforming_orders_and_casts() -> None:
    frame = pl.DataFrame({"n_tokens": [7], "reason": ["no_fitting_group"], "doc_id": ["a"]})
    found = conform(frame, "packing_leftovers")
    assert list(found.schema.items()) == [("doc_id", pl.String), ("reason", pl.String), ("n_tokens", pl.Int32)]
    assert found.row(0) == ("a", "no_fitting_group", 7)


def test_vectors_of_fixed_width_become_lists() -> None:
    chunk = {"chunk_id": "c", "doc_id": "d", "start_char": 0, "end_char": 2, "text": "ab", "n_tokens": 1}
    vectors = pl.Series(np.array([[0.6, 0.8]], dtype=np.float64), dtype=pl.Array(pl.Float64, 2))
    frame = pl.DataFrame([{**chunk, "content_hash": "h"}]).with_columns(vector=vectors)
    assert conform(frame, "context_chunks").schema["vector"] == pl.List(pl.Float32)


@pytest.mark.parametrize("columns", [["doc_id", "reason"], ["doc_id", "reason", "n_tokens", "more"]])
def test_a_column_too_few_or_too_many_is_refused(columns: list[str]) -> None:
    with pytest.raises(AssertionError, match="packing_leftovers"):
        conform(pl.DataFrame({name: [None] for name in columns}), "packing_leftovers")


def test_a_number_beyond_its_column_is_refused() -> None:
    frame = pl.DataFrame({"doc_id": ["a"], "reason": ["x"], "n_tokens": [2**31]})
    with pytest.raises(pl.exceptions.InvalidOperationError, match="2147483648"):
        conform(frame, "packing_leftovers")


def test_dagster_shows_columns_with_their_types() -> None:
    columns = dagster_schema("packing_leftovers").columns
    assert [(column.name, column.type) for column in columns] == [
        ("doc_id", "String"),
        ("reason", "String"),
        ("n_tokens", "Int32"),
    ]


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_described(table: str) -> None:
    assert [column.name for column in dagster_schema(table).columns if not column.description] == []
