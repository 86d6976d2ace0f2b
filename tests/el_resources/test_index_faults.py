"""The index on disks and object stores that fail: doubled rows, damaged files, connections that are reset."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from el_resources.context_store import BrokenIndexError, ContextStore
from el_resources.index_rows import COMMIT_ROWS, ShardChunks, groups, rows_in
from el_resources.index_soundness import record_build
from tests.el_resources.made_chunks import DIMENSION, SETTINGS, as_chunks, chunks_frame, shard
from tests.s3_server import BUCKET, S3, s3_server

CONTENT = {"a": shard("a", 40), "c": shard("c", 300), "d": shard("d", 5)}
ROWS = {"a": {"1": 40}, "c": {"1": 300}, "d": {"1": 5}}
# A file of each kind that the build in force consists of.
KINDS = (
    "context_chunks.lance/_versions/*.manifest",
    "context_chunks.lance/data/*",
    "context_chunks.lance/_indices/*/*",
    "context_chunks.lance/_deletions/*",
    "context_chunks.lance/_refs/tags/current.json",
    "context_chunks.lance/_refs/tags/build-*.json",
    "builds/*.json",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with two builds, of which the later one deleted rows of a fragment that it kept."""
    place = tmp_path_factory.mktemp("whole") / "context_store"
    store = ContextStore(str(place))
    store.sync({**CONTENT, "b": shard("b", 10)}, settings=SETTINGS)
    store.sync(CONTENT, settings=SETTINGS)
    return place


def damaged(data: bytes, how: str) -> bytes | None:
    match how:
        case "cut":
            return data[: len(data) // 2]
        case "emptied":
            return b""
        case "flipped":
            place = random.Random(len(data)).randrange(len(data))
            return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
    return None


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped", "gone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_or_needless_and_a_sync_heals(whole: Path, tmp_path: Path, kind: str, how: str) -> None:
    n_named = 0
    tag = ContextStore(str(whole)).current_tag()
    used = {
        whole / "context_chunks.lance" / name
        for name in json.loads((whole / f"builds/{tag}.json").read_text())["files"]
    }
    used |= {whole / f"builds/{tag}.json", *whole.glob("context_chunks.lance/_refs/tags/*")}
    for number, file in enumerate(sorted(used & set(whole.glob(kind)))[:2]):
        place = tmp_path / str(number) / "context_store"
        shutil.copytree(whole, place)
        target = place / file.relative_to(whole)
        content = damaged(target.read_bytes(), how)
        target.unlink() if content is None else target.write_bytes(content)
        told: list[str] = []
        store = ContextStore(str(place), tell=told.append)
        if fault := store.fault():
            n_named += 1
            with pytest.raises(BrokenIndexError, match=r"is broken: .*; run job build_index"):
                store.open()
            assert fault
        report = store.sync(CONTENT, settings=SETTINGS)
        assert report.n_rows == 345
        assert bool(fault) == any("is made anew from context_chunks" in line for line in told)
        index = store.open()
        assert rows_in(index._table) == ROWS
        assert index.search_text(["passage of c"], 3).height == 3
        assert index.search_dense(np.ones((1, DIMENSION), dtype=np.float32), 3).height == 3
    # A record may go, an index without `current` was never built, and a flipped space of a tag is a space.
    needless = how in ("gone", "flipped") and kind.endswith(("current.json", "build-*.json", "builds/*.json"))
    assert n_named or needless


def test_doubled_rows_are_replaced_though_their_build_was_tagged(tmp_path: Path) -> None:
    store = ContextStore(str(tmp_path / "context_store"))
    tag = store.sync({"a": shard("a"), "b": shard("b")}, settings=SETTINGS).tag
    table = store._open()
    table.add(table.search().where("shard = 'a'").to_arrow())
    record_build(store.uri, "context_chunks", tag, table.version)
    for name in (tag, "current"):
        table.tags.update(name, table.version)
    assert rows_in(store.open()._table) == {"a": {"1": 20}, "b": {"1": 10}}

    report = store.sync({"a": shard("a"), "b": shard("b")}, settings=SETTINGS)

    assert (report.tag, report.replaced, report.added) == (tag, ["a"], [])
    assert rows_in(store.open(tag)._table) == {"a": {"1": 10}, "b": {"1": 10}}


def test_many_shards_take_few_commits_and_their_progress_is_told(tmp_path: Path) -> None:
    content = {f"{n:04}": as_chunks(chunks_frame(f"{n:04}", [f"text {n}"], seed=n), "1") for n in range(500)}
    told: dict[str, int] = {}
    store = ContextStore(str(tmp_path / "context_store"))
    store.sync(content, settings=SETTINGS, on_progress=told.__setitem__)
    assert told == dict.fromkeys(content, 1)
    assert store.open()._table.version < 10
    assert rows_in(store.open()._table) == {name: {"1": 1} for name in content}


def test_commits_are_bounded_in_rows_and_in_number() -> None:
    def sized(count: int, rows: int) -> dict[str, ShardChunks]:
        return {str(n): ShardChunks(fingerprint="1", n_rows=rows, batches=lambda: iter(())) for n in range(count)}

    some = sized(10, COMMIT_ROWS // 4)
    assert [len(group) for group in groups(list(some), some)] == [4, 4, 2]
    large = sized(15_000, COMMIT_ROWS)
    assert 60 <= len(list(groups(list(large), large))) <= 70


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3_server() as s3:
        yield s3


@pytest.fixture
def s3(server: S3) -> S3:
    server.empty()
    return server


class TestObjectStore:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_resets_at_random_change_nothing(self, s3: S3, seed: int) -> None:
        store, told = f"s3://{BUCKET}/store/context_store", list[str]()
        s3.reset_at_random("context_store/", share=0.3, seed=seed)
        report = ContextStore(store, tell=told.append).sync(CONTENT, settings=SETTINGS)
        s3.chance = None
        assert s3.n_reset > 5
        assert report.n_rows == 345
        assert rows_in(ContextStore(store).open()._table) == ROWS

    @pytest.mark.parametrize(
        ("where", "method", "kind"), [("_versions%2F", "GET", "reset"), (".manifest", "PUT", "reset")]
    )
    def test_more_resets_than_the_library_repeats_are_told_and_double_nothing(
        self, s3: S3, where: str, method: str, kind: str
    ) -> None:
        store, told = f"s3://{BUCKET}/store/context_store", list[str]()
        ContextStore(store).sync({"a": CONTENT["a"]}, settings=SETTINGS)
        s3.fail(where, kind, times=26, method=method)
        ContextStore(store, tell=told.append).sync(CONTENT, settings=SETTINGS)
        assert any("attempt 2 of 8 in" in line for line in told)
        assert rows_in(ContextStore(store).open()._table) == ROWS

    def test_a_fault_that_does_not_pass_names_bucket_and_endpoint(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("el_resources.passing_faults.ATTEMPTS", 2)
        store = f"s3://{BUCKET}/store/context_store"
        ContextStore(store).sync({"a": CONTENT["a"]}, settings=SETTINGS)
        s3.fail("_versions%2F", "reset", times=1000)
        with pytest.raises(ConnectionError, match=rf"{store} at {s3.endpoint} cannot be reached: .* failed 2 times"):
            ContextStore(store).sync(CONTENT, settings=SETTINGS)
