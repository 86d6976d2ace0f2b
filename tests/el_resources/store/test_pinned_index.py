from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_resources.store.context_store import ContextStore
from el_resources.store.pinned_index import PinnedIndex, probes
from tests.support.made_chunks import DIMENSION, SETTINGS, as_chunks, chunks_frame, shard


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(str(tmp_path / "context_store"))


def cosines(frame: pl.DataFrame, queries: np.ndarray) -> np.ndarray:
    vectors = frame["vector"].to_numpy().astype(np.float64)
    unit_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarity: np.ndarray = unit_queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    return similarity


def brute_force(frame: pl.DataFrame, queries: np.ndarray, k: int) -> list[list[str]]:
    ids = frame["chunk_id"].to_list()
    return [[ids[i] for i in sorted(range(len(ids)), key=lambda i: -row[i])[:k]] for row in cosines(frame, queries)]


def ids_per_query(found: pl.DataFrame, n_queries: int) -> list[list[str]]:
    return [found.filter(pl.col("query_index") == i)["chunk_id"].to_list() for i in range(n_queries)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[PinnedIndex, pl.DataFrame]:
    doc_ids = [f"doc{i // 40}" for i in range(400)]
    frame = chunks_frame("a", [f"passage number {i}" for i in range(400)], doc_ids=doc_ids, seed=3)
    store = ContextStore(str(tmp_path_factory.mktemp("large") / "store"))
    store.sync({"a": as_chunks(frame, "1")}, settings=SETTINGS)
    return store.open(), frame


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_queries=st.integers(1, 5),
    k=st.integers(1, 450),
)
def test_dense_search_is_exact(large: tuple[PinnedIndex, pl.DataFrame], seed: int, n_queries: int, k: int) -> None:
    index, frame = large
    queries = np.random.default_rng(seed).normal(size=(n_queries, DIMENSION)).astype(np.float32)

    found = index.search_dense(queries, k)

    # Rows whose similarities agree but for fp32 rounding may change places, also across the cut.
    row_of = {chunk_id: row for row, chunk_id in enumerate(frame["chunk_id"])}
    expected = brute_force(frame, queries, k)
    for query, ids, best in zip(cosines(frame, queries), ids_per_query(found, n_queries), expected, strict=True):
        assert len(set(ids)) == len(ids) == len(best)
        np.testing.assert_allclose(query[[row_of[i] for i in ids]], query[[row_of[i] for i in best]], atol=1e-6)


def test_ties_are_ordered_by_chunk_id_whatever_the_order_of_storage(store: ContextStore) -> None:
    frame = chunks_frame("a", ["the very same words"] * 300)
    same = np.tile(np.eye(1, DIMENSION, dtype=np.float32), (300, 1))
    frame = frame.with_columns(vector=pl.Series(same, dtype=pl.Array(pl.Float32, DIMENSION)))
    store.sync({"a": as_chunks(frame.sample(fraction=1, shuffle=True, seed=1), "1")}, settings=SETTINGS)
    index = store.open()

    expected = ["a-000", "a-001", "a-002"]

    assert index.search_dense(same[:1], 3)["chunk_id"].to_list() == expected
    assert index.search_text(["same words"], 3)["chunk_id"].to_list() == expected


def test_a_zero_vector_finds_nothing_and_disturbs_no_other_query(large: tuple[PinnedIndex, pl.DataFrame]) -> None:
    index, frame = large
    queries = np.zeros((3, DIMENSION), dtype=np.float32)
    queries[1] = frame["vector"].to_numpy()[7]

    found = index.search_dense(queries, 2)

    assert found["query_index"].to_list() == [1, 1]
    assert found["chunk_id"][0] == "a-007"
    assert found["similarity"][0] == pytest.approx(1, abs=1e-6)
    assert index.search_dense(queries[:1], 2).is_empty()
    assert index.search_dense(queries[:1], 2).schema == found.schema


def test_queries_that_do_not_fit_the_index_are_refused(large: tuple[PinnedIndex, pl.DataFrame]) -> None:
    index, _ = large
    with pytest.raises(ValueError, match=r"shape \(1, 5\), the index needs \(queries, 8\)"):
        index.search_dense(np.ones((1, 5), dtype=np.float32), 3)
    with pytest.raises(ValueError, match="not finite"):
        index.search_dense(np.full((1, DIMENSION), np.nan, dtype=np.float32), 3)
    with pytest.raises(ValueError, match="k=0"):
        index.search_text(["passage"], 0)
    with pytest.raises(ValueError, match="no chunk 'nope'"):
        index.texts(["a-001", "nope"])


HOSTILE = [
    "",
    "  \n",
    "the",
    "\0",
    '"',
    "((((",
    'passage AND (number OR "',
    "text:passage~2^5",
    "-passage +number *",
    "passage'; DROP TABLE context_chunks; --",
    "👩‍👩‍👧‍👦 漢字",
    "\ufeff\u200b\\",
    "passage " * 2_000,
    "x" * 10_000,
]


def test_full_text_queries_are_plain_terms(large: tuple[PinnedIndex, pl.DataFrame]) -> None:
    index, _ = large

    found = index.search_text([*HOSTILE, "number 123"], 2)

    with_hits = [i for i, query in enumerate(HOSTILE) if "passage" in query]
    assert found["query_index"].unique().sort().to_list() == [*with_hits, len(HOSTILE)]
    assert found.filter(pl.col("query_index") == len(HOSTILE))["chunk_id"][0] == "a-123"


@settings(deadline=None, max_examples=60)
@given(query=st.text(max_size=60))
def test_no_full_text_query_raises(large: tuple[PinnedIndex, pl.DataFrame], query: str) -> None:
    index, _ = large
    assert index.search_text([query], 3).columns == index.search_text(["passage"], 3).columns


@pytest.mark.parametrize(
    ("n_rows", "partitions"),
    [(0, 32), (540_671, 32), (540_672, 33), (1_000_000, 61), (2_097_151, 127), (2_097_152, 128), (10**9, 128)],
)
def test_a_quarter_of_the_partitions_is_searched_within_bounds(n_rows: int, partitions: int) -> None:
    assert probes(n_rows) == partitions


def test_a_large_table_gets_a_vector_index_that_finds_nearly_all(store: ContextStore) -> None:
    frame = chunks_frame("a", [f"passage {i}" for i in range(3_000)], seed=2)
    content = {"a": as_chunks(frame, "1")}
    store.sync(content, settings=SETTINGS, exact_row_limit=1_000)
    queries = np.random.default_rng(9).normal(size=(50, DIMENSION)).astype(np.float32)

    found = ids_per_query(store.open().search_dense(queries, 8), 50)
    expected = brute_force(frame, queries, 8)

    recall = np.mean([len(set(a) & set(b)) / 8 for a, b in zip(found, expected, strict=True)])
    assert recall > 0.95
    assert not store.sync(content, settings=SETTINGS, exact_row_limit=1_000).changed
    # New shards are searched too, through the same indices.
    grown = {**content, "b": shard("b", seed=7)}
    store.sync(grown, settings=SETTINGS, exact_row_limit=1_000)
    vector = chunks_frame("b", ["x"] * 10, seed=7)["vector"].to_numpy()[[4]]
    assert store.open().search_dense(vector, 1)["chunk_id"].to_list() == ["b-004"]
    assert store.open().search_text(["state"], 50).height == 10
