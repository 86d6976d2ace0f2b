from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from el_resources.store.context_store import ContextStore
from el_resources.store.index_rows import ShardChunks
from el_resources.store.pinned_index import PinnedIndex
from tests.support.made_chunks import DIMENSION, SETTINGS, as_chunks, chunks_frame, shard


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
        store.sync({"a": shard("a"), "b": ShardChunks(fingerprint="2", n_rows=10, batches=dying)}, settings=SETTINGS)

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

    for step in ("build_indices", "record_build"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"el_resources.store.context_store.{step}", die)
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

    with pytest.raises(ValueError, match=f"no build 'build-0'; choose one of {tag}"):
        store.open("build-0")


def test_nothing_to_index_is_an_error_that_leaves_the_old_build(store: ContextStore) -> None:
    old = store.sync({"a": shard("a")}, settings=SETTINGS)

    for content in ({}, {"a": ShardChunks(fingerprint="2", n_rows=0, batches=lambda: iter(()))}):
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
    for found in (index.search_dense(vector, 15), index.search_text(["words"], 15)):
        assert set(doc_ids) <= set(found["doc_id"].to_list())
    ids = [f"{name}-004", f"{name}-000", f"{name}-004"]
    assert index.texts(ids)["chunk_id"].to_list() == ids

    assert store.sync({"b": shard("b")}, settings=SETTINGS).deleted == [name]
    assert shards_in(store.open()) == {"b": 10}
