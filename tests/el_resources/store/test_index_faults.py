"""The index on disks and object stores that fail: doubled rows, damaged files, connections that are reset."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from el_resources.store.context_store import BrokenIndexError, ContextStore
from el_resources.store.index_rows import COMMIT_ROWS, ShardChunks, groups, rows_in
from el_resources.store.index_soundness import record_build
from el_resources.store.index_tags import versions_of
from el_resources.store.object_stores import store_path
from tests.support.made_chunks import DIMENSION, SETTINGS, as_chunks, chunks_frame, shard
from tests.support.s3_server import BUCKET, S3

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


TABLE = "context_chunks.lance"
NEWEST = f"{TABLE}/_versions/18446744073709551609.manifest"


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def written(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("pattern", "damage", "words"),
    [
        (f"{TABLE}/_versions/*", remove, f"{TABLE} has no manifest"),
        (f"{TABLE}/_versions", remove, f"{TABLE} has no manifest"),
        (TABLE, remove, f"{TABLE} is gone"),
        (NEWEST, remove, f"{NEWEST}, is gone"),
        (NEWEST, written(""), f"{NEWEST}, is empty"),
        (NEWEST, written("x" * 99), "do not form a readable table"),
        *(
            (f"{TABLE}/_refs/tags/current.json", written(content), "the file of tag current, ")
            for content in ("", "{", "[]", "{}", '{"version": "x", "manifestSize": 1}', '{"version": -1}', "6", "\0")
        ),
    ],
)
def test_an_index_that_cannot_be_read_is_told_in_words_of_ours_and_made_anew(
    whole: Path, tmp_path: Path, pattern: str, damage: Callable[[Path], object], words: str
) -> None:
    place, told = tmp_path / "context_store", list[str]()
    shutil.copytree(whole, place)
    for path in place.glob(pattern):
        damage(path)
    store = ContextStore(str(place), tell=told.append)
    with pytest.raises(BrokenIndexError, match=re.escape(words)) as raised:
        store.open()
    assert not re.search(r"(?i)lance ?error|arrow|\.rs:|cleaned up", str(raised.value))
    assert store.sync(CONTENT, settings=SETTINGS).n_rows == 345
    assert len(told) == 1
    assert rows_in(store.open()._table) == ROWS


def test_a_build_of_before_that_is_damaged_is_not_restored(whole: Path, tmp_path: Path) -> None:
    place = tmp_path / "context_store"
    shutil.copytree(whole, place)
    before = {**CONTENT, "b": shard("b", 10)}
    store = ContextStore(str(place))
    tag = store.sync(before, settings=SETTINGS).tag
    version = versions_of(store._open())[tag]
    store.sync(CONTENT, settings=SETTINGS)
    (place / TABLE / "_versions" / f"{2**64 - 1 - version}.manifest").unlink()
    assert store.sync(before, settings=SETTINGS).tag == tag
    assert rows_in(store.open(tag)._table) == {**ROWS, "b": {"1": 10}}


def test_each_file_is_hashed_once_a_build_and_again_in_the_next_process(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def counted(file: IO[bytes], kind: str) -> Any:
        hashed.append(file.name)
        return file_digest(file, kind)

    monkeypatch.setattr("el_resources.sources.shard_files.file_digest", counted)
    place = tmp_path / "context_store"
    shutil.copytree(whole, place)
    store = ContextStore(str(place))
    store.sync({**CONTENT, "b": shard("b", 10)}, settings=SETTINGS)
    store.sync(CONTENT, settings=SETTINGS)
    store.open()
    assert len(hashed) == len(set(hashed)) > 3
    data = next(place.glob(f"{TABLE}/data/*"))
    times = data.stat()
    data.write_bytes(damaged(data.read_bytes(), "flipped") or b"")
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr("el_resources.sources.shard_files._LOCAL_DIGESTS", {})  # what a process begins with
    assert store.fault() == f"the content of {data} changed"


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


class TestObjectStore:
    def test_an_index_whose_manifests_are_gone_is_told_and_made_anew(self, s3: S3) -> None:
        store = ContextStore(f"s3://{BUCKET}/store/context_store")
        store.sync(CONTENT, settings=SETTINGS)
        manifests = store_path(store.uri) / TABLE / "_versions"
        manifests.fs.rm(manifests.path, recursive=True)
        assert store.fault() == f"{store.uri}/{TABLE} has no manifest"
        assert store.sync(CONTENT, settings=SETTINGS).n_rows == 345

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
        monkeypatch.setattr("el_resources.store.passing_faults.ATTEMPTS", 2)
        store = f"s3://{BUCKET}/store/context_store"
        ContextStore(store).sync({"a": CONTENT["a"]}, settings=SETTINGS)
        s3.fail("_versions%2F", "reset", times=1000)
        with pytest.raises(ConnectionError, match=rf"{store} at {s3.endpoint} cannot be reached: .* failed 2 times"):
            ContextStore(store).sync(CONTENT, settings=SETTINGS)
