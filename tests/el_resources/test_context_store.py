from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_resources.context_store import ContextStore, ShardChunks
from el_resources.pinned_index import PinnedIndex

DIMENSION = 8
SETTINGS = {"encoder": "test"}


def chunks_frame(shard: str, texts: list[str], *, doc_ids: list[str] | None = None, seed: int = 0) -> pl.DataFrame:
    vectors = np.random.default_rng(seed).normal(size=(len(texts), DIMENSION)).astype(np.float32)
    return pl.DataFrame(
        {
            "chunk_id": [f"{shard}-{i:03}" for i in range(len(texts))],
            "doc_id": doc_ids or [f"{shard}-doc{i // 2}" for i in range(len(texts))],
            "content_hash": [f"hash of {text}" for text in texts],
            "text": texts,
            "n_tokens": pl.Series([len(text.split()) for text in texts], dtype=pl.Int32),
            "start_char": [0] * len(texts),
            "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, DIMENSION)),
        }
    )


def as_chunks(frame: pl.DataFrame, fingerprint: str) -> ShardChunks:
    return ShardChunks(fingerprint=fingerprint, batches=lambda: iter(frame.to_arrow().to_batches(max_chunksize=3)))


def shard(name: str, n: int = 10, *, fingerprint: str = "1", seed: int = 0) -> ShardChunks:
    texts = [f"passage {i} of {name} in state {fingerprint}" for i in range(n)]
    return as_chunks(chunks_frame(name, texts, seed=seed), fingerprint)


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def shards_in(index: PinnedIndex) -> dict[str, int]:
    return dict(index.chunk_ids().group_by("shard").len().sort("shard").iter_rows())


@pytest.fixture
def store(tmp_path: Path) -> ContextStore:
    return ContextStore(str(tmp_path / "context_store"))


def test_syncing_the_same_content_again_writes_nothing(store: ContextStore) -> None:
    content = {"a": shard("a"), "b": shard("b", seed=1)}
    first = store.sync(content, settings=SETTINGS)
    before = files_below(Path(store.uri))

    second = store.sync(content, settings=SETTINGS)

    assert (first.added, first.changed, first.n_rows) == (["a", "b"], True, 20)
    assert (second.added, second.changed, second.n_rows) == ([], False, 20)
    assert second.tag == first.tag == store.current_tag()
    assert files_below(Path(store.uri)) == before


def test_a_replaced_and_a_removed_shard_take_their_chunks_along(store: ContextStore) -> None:
    store.sync({"a": shard("a"), "b": shard("b"), "c": shard("c")}, settings=SETTINGS)

    report = store.sync({"a": shard("a", 4, fingerprint="2"), "c": shard("c")}, settings=SETTINGS)
    index = store.open()

    assert (report.added, report.replaced, report.deleted) == ([], ["a"], ["b"])
    assert shards_in(index) == {"a": 4, "c": 10}
    assert index.texts(["a-003"])["text"].to_list() == ["passage 3 of a in state 2"]
    assert index.search_text(["passage of b"], 20)["shard"].unique().sort().to_list() == ["a", "c"]


def test_an_old_tag_stays_readable_while_and_after_a_new_build(store: ContextStore) -> None:
    old = store.sync({"a": shard("a")}, settings=SETTINGS)
    reader = store.open()
    query = np.ones((1, DIMENSION), dtype=np.float32)
    before = reader.search_dense(query, 5)

    new = store.sync({"a": shard("a", fingerprint="2", seed=5), "b": shard("b")}, settings=SETTINGS)

    assert new.tag != old.tag
    assert store.current_tag() == new.tag
    assert reader.search_dense(query, 5).equals(before)
    assert store.open(old.tag).search_dense(query, 5).equals(before)
    assert (
        reader.search_text(["state 1"], 3)["text"].to_list()
        == store.open(old.tag).search_text(["state 1"], 3)["text"].to_list()
    )


def test_going_back_to_tagged_content_brings_its_tag_back_in_force(store: ContextStore) -> None:
    old_content = {"a": shard("a"), "b": shard("b")}
    old = store.sync(old_content, settings=SETTINGS)
    rows = store.open().chunk_ids()
    store.sync({"a": shard("a", fingerprint="2"), "c": shard("c")}, settings=SETTINGS)

    back = store.sync(old_content, settings=SETTINGS)
    before = files_below(Path(store.uri))
    again = store.sync(old_content, settings=SETTINGS)

    assert (back.tag, back.changed, store.current_tag()) == (old.tag, True, old.tag)
    assert (back.added, back.replaced, back.deleted) == (["b"], ["a"], ["c"])
    assert store.open().chunk_ids().equals(rows)
    assert not again.changed
    assert files_below(Path(store.uri)) == before
    # A later change starts from what was restored.
    later = store.sync({**old_content, "d": shard("d")}, settings=SETTINGS)
    assert (later.added, later.replaced, later.deleted) == (["d"], [], [])


def test_other_settings_make_another_tag_and_copy_no_rows(store: ContextStore) -> None:
    first = store.sync({"a": shard("a")}, settings=SETTINGS)

    second = store.sync({"a": shard("a")}, settings={"encoder": "another"})

    assert second.tag != first.tag
    assert (second.added, second.replaced, second.deleted, second.changed) == ([], [], [], True)


def test_vectors_of_another_dimension_replace_the_table_and_old_tags_stay(store: ContextStore) -> None:
    old = store.sync({"a": shard("a")}, settings=SETTINGS)
    wide = chunks_frame("a", ["one", "two"]).with_columns(
        vector=pl.Series(np.eye(2, 32, dtype=np.float32), dtype=pl.Array(pl.Float32, 32))
    )

    store.sync({"a": as_chunks(wide, "2")}, settings=SETTINGS)

    assert (store.open().dimension, store.open().n_rows) == (32, 2)
    assert (store.open(old.tag).dimension, store.open(old.tag).n_rows) == (DIMENSION, 10)
    assert store.sync({"a": shard("a")}, settings=SETTINGS).tag == old.tag
    assert store.open().dimension == DIMENSION


def test_a_shard_without_chunks_is_no_change_the_next_time(store: ContextStore) -> None:
    content = {"a": shard("a"), "empty": shard("empty", 0)}
    store.sync(content, settings=SETTINGS)
    store.sync({"a": shard("a")}, settings=SETTINGS)
    store.sync(content, settings=SETTINGS)

    assert not store.sync(content, settings=SETTINGS).changed
    assert shards_in(store.open()) == {"a": 10}


@pytest.mark.parametrize("surviving_batches", [0, 2])
def test_a_sync_that_died_between_delete_and_add_is_healed(store: ContextStore, surviving_batches: int) -> None:
    old = store.sync({"a": shard("a"), "b": shard("b")}, settings=SETTINGS)
    good = shard("b", fingerprint="2")

    def dying() -> Iterator[pa.RecordBatch]:
        # The first batch is read once more, to learn the schema.
        for number, batch in enumerate(good.batches()):
            if number == surviving_batches:
                raise OSError("disk went away")
            yield batch

    with pytest.raises(OSError, match="disk went away"):
        store.sync({"a": shard("a"), "b": ShardChunks(fingerprint="2", batches=dying)}, settings=SETTINGS)

    assert store.current_tag() == old.tag
    assert shards_in(store.open()) == {"a": 10, "b": 10}
    report = store.sync({"a": shard("a"), "b": good}, settings=SETTINGS)
    assert (report.added, report.replaced) == (["b"], [])
    assert shards_in(store.open()) == {"a": 10, "b": 10}
    assert store.open().texts(["b-000"])["text"].to_list() == ["passage 0 of b in state 2"]


def test_a_sync_that_died_before_its_tag_is_healed(store: ContextStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old = store.sync({"a": shard("a")}, settings=SETTINGS)
    new_content = {"a": shard("a"), "b": shard("b")}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("_build_indices", "_put_in_force"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"el_resources.context_store.{step}", die)
            store.sync(new_content, settings=SETTINGS)
        assert store.current_tag() == old.tag

    report = store.sync(new_content, settings=SETTINGS)

    assert report.changed
    assert store.current_tag() == report.tag != old.tag
    assert shards_in(store.open()) == {"a": 10, "b": 10}
    assert store.open().search_text(["passage of b"], 1)["shard"].to_list() == ["b"]


def test_an_index_that_was_never_built_says_so_and_makes_no_folder(store: ContextStore) -> None:
    with pytest.raises(ValueError, match="was never built: run job build_index"):
        store.current_tag()
    with pytest.raises(ValueError, match="was never built"):
        store.open()
    assert not Path(store.uri).exists()


def test_an_unknown_tag_is_named_with_the_known_ones(store: ContextStore) -> None:
    tag = store.sync({"a": shard("a")}, settings=SETTINGS).tag

    with pytest.raises(ValueError, match=f"no build 'build-0'; it has {tag}"):
        store.open("build-0")


def test_nothing_to_index_is_an_error_that_leaves_the_old_build(store: ContextStore) -> None:
    old = store.sync({"a": shard("a")}, settings=SETTINGS)

    for content in ({}, {"a": ShardChunks(fingerprint="2", batches=lambda: iter(()))}):
        with pytest.raises(ValueError, match="no shard has a chunk"):
            store.sync(content, settings=SETTINGS)
    with pytest.raises(ValueError, match=r"lack the columns \['vector'\]"):
        store.sync({"a": as_chunks(chunks_frame("a", ["x"]).drop("vector"), "3")}, settings=SETTINGS)

    assert store.open().tag == old.tag


def test_shard_names_and_doc_ids_may_hold_any_character(store: ContextStore) -> None:
    name = "it's a \"shard\" \\ % 漢 '; drop"
    doc_ids = ["o'neil", 'say "hi"', "back\\slash", "100% '--", ""]
    frame = chunks_frame(name, [f"words of {i}" for i in range(5)], doc_ids=doc_ids, seed=4)
    store.sync({name: as_chunks(frame, "1"), "b": shard("b")}, settings=SETTINGS)
    index = store.open()

    for row, doc_id in enumerate(doc_ids):
        vector = frame["vector"].to_numpy()[[row]]
        assert index.search_dense(vector, 15)["doc_id"][0] == doc_id
        for found in (
            index.search_dense(vector, 15, exclude_doc_id=doc_id),
            index.search_text(["words"], 15, exclude_doc_id=doc_id),
        ):
            assert doc_id not in found["doc_id"].to_list()
            assert set(doc_ids) - {doc_id} <= set(found["doc_id"].to_list())
    ids = [f"{name}-004", f"{name}-000", f"{name}-004"]
    assert index.texts(ids)["chunk_id"].to_list() == ids

    assert store.sync({"b": shard("b")}, settings=SETTINGS).deleted == [name]
    assert shards_in(store.open()) == {"b": 10}


def cosines(frame: pl.DataFrame, queries: np.ndarray) -> np.ndarray:
    vectors = frame["vector"].to_numpy().astype(np.float64)
    unit_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    similarity: np.ndarray = unit_queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    return similarity


def brute_force(frame: pl.DataFrame, queries: np.ndarray, k: int, excluded: str | None) -> list[list[str]]:
    similarity = cosines(frame, queries)
    ids, doc_ids = frame["chunk_id"].to_list(), frame["doc_id"].to_list()
    allowed = [i for i in range(len(ids)) if doc_ids[i] != excluded]
    return [[ids[i] for i in sorted(allowed, key=lambda i: -row[i])[:k]] for row in similarity]


def ids_per_query(found: pl.DataFrame, n_queries: int) -> list[list[str]]:
    return [found.filter(pl.col("query_index") == i)["chunk_id"].to_list() for i in range(n_queries)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[PinnedIndex, pl.DataFrame]:
    # 40 chunks a document: more own chunks than the search fetches in its first round.
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
    excluded=st.sampled_from([None, "doc0", "doc9", "absent"]),
)
def test_dense_search_is_exact(
    large: tuple[PinnedIndex, pl.DataFrame], seed: int, n_queries: int, k: int, excluded: str | None
) -> None:
    index, frame = large
    queries = np.random.default_rng(seed).normal(size=(n_queries, DIMENSION)).astype(np.float32)

    found = index.search_dense(queries, k, exclude_doc_id=excluded)

    # Rows whose similarities agree but for fp32 rounding may change places, also across the cut.
    row_of = {chunk_id: row for row, chunk_id in enumerate(frame["chunk_id"])}
    expected = brute_force(frame, queries, k, excluded)
    for query, ids, best in zip(cosines(frame, queries), ids_per_query(found, n_queries), expected, strict=True):
        assert len(set(ids)) == len(ids) == len(best)
        np.testing.assert_allclose(query[[row_of[i] for i in ids]], query[[row_of[i] for i in best]], atol=1e-6)
    assert excluded not in found["doc_id"].to_list()


def test_own_chunks_that_fill_the_first_round_are_passed_over(large: tuple[PinnedIndex, pl.DataFrame]) -> None:
    _, frame = large
    own = np.tile(np.eye(1, DIMENSION, dtype=np.float32), (200, 1))
    crowded = frame.with_columns(
        doc_id=pl.when(pl.int_range(pl.len()) < 200).then(pl.lit("own")).otherwise("doc_id"),
        vector=pl.Series(np.vstack([own, frame["vector"].to_numpy()[200:]]), dtype=pl.Array(pl.Float32, DIMENSION)),
    )
    query = np.eye(1, DIMENSION, dtype=np.float32)

    expected = brute_force(crowded, query, 5, "own")

    index, _ = large
    store = ContextStore(str(Path(index._table.uri).parent.parent / "crowded"))
    store.sync({"a": as_chunks(crowded, "1")}, settings=SETTINGS)
    assert ids_per_query(store.open().search_dense(query, 5, exclude_doc_id="own"), 1) == expected


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


def test_a_large_table_gets_a_vector_index_that_finds_nearly_all(store: ContextStore) -> None:
    frame = chunks_frame("a", [f"passage {i}" for i in range(3_000)], seed=2)
    content = {"a": as_chunks(frame, "1")}
    store.sync(content, settings=SETTINGS, exact_row_limit=1_000)
    queries = np.random.default_rng(9).normal(size=(50, DIMENSION)).astype(np.float32)

    found = ids_per_query(store.open().search_dense(queries, 8), 50)
    expected = brute_force(frame, queries, 8, None)

    recall = np.mean([len(set(a) & set(b)) / 8 for a, b in zip(found, expected, strict=True)])
    assert recall > 0.95
    assert not store.sync(content, settings=SETTINGS, exact_row_limit=1_000).changed
    # New shards are searched too, through the same indices.
    grown = {**content, "b": shard("b", seed=7)}
    store.sync(grown, settings=SETTINGS, exact_row_limit=1_000)
    vector = chunks_frame("b", ["x"] * 10, seed=7)["vector"].to_numpy()[[4]]
    assert store.open().search_dense(vector, 1)["chunk_id"].to_list() == ["b-004"]
    assert store.open().search_text(["state"], 50).height == 10
