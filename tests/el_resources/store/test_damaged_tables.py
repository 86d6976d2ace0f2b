"""Tests of damaged tables: each fault is named in words, and the table counts as missing before a row of it is used."""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from el_resources.store.hashing import fault_of
from el_resources.store.shard_tables import KnownStamps, MissingTableError, ShardTables
from el_resources.store.stamps import STAMP_KEY, Stamp
from el_resources.store.whole_files import ORPHAN_SECONDS, write_whole

FRAME = pl.DataFrame({"doc_id": [f"d{n}" for n in range(200)], "vector": [[float(n), 0.5] for n in range(200)]})


def stamped(partition: str = "a", **facts: object) -> Stamp:
    return Stamp(asset="documents", partition=partition, recipe="r", facts={"rows": FRAME.height, **facts})


@pytest.fixture
def tables(tmp_path: Path) -> ShardTables:
    tables = ShardTables(str(tmp_path))
    tables.write(FRAME, stamped())
    assert tables.read("documents", "a").equals(FRAME)
    return tables


def place(tables: ShardTables) -> Path:
    return Path(str(tables.path("documents", "a")))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_text(path: Path) -> None:
    path.write_text("not a table " * 100)


def a_folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def a_page_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def forged(path: Path) -> None:
    """Put other rows under a copy of the stamp."""
    stamp = pl.read_parquet_metadata(path)[STAMP_KEY]
    FRAME.reverse().write_parquet(path, metadata={STAMP_KEY: stamp})


def without_stamp(path: Path) -> None:
    FRAME.write_parquet(path)


def stamp_of(path: Path, change: Callable[[dict], object]) -> None:
    """Write the table with a changed stamp and without a digest, as an older version would."""
    found = json.loads(pl.read_parquet_metadata(path)[STAMP_KEY])
    del found["file_digest"]
    changed = change(found) or found
    FRAME.write_parquet(path, metadata={STAMP_KEY: changed if isinstance(changed, str) else json.dumps(changed)})


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (cut_short, "cut short"),
    "empty": (emptied, "its file is empty"),
    "text": (of_text, "not a Parquet file"),
    "folder": (a_folder, "a folder is in its place"),
    "page": (a_page_flipped, "digest differs"),
    "forged": (forged, "digest differs"),
    "no stamp": (without_stamp, "no stamp of this project"),
    "newer": (
        lambda path: stamp_of(path, lambda s: {**s, "licences": []}),
        "of a newer version of this project, with licences",
    ),
    "json": (lambda path: stamp_of(path, lambda s: "{"), "its stamp is broken"),
    "list": (lambda path: stamp_of(path, lambda s: "[]"), "its stamp is broken"),
    "types": (lambda path: stamp_of(path, lambda s: {**s, "settings": "x"}), "its stamp is broken"),
    "no recipe": (lambda path: stamp_of(path, lambda s: {"asset": "documents", "partition": "a"}), "stamp is broken"),
    "another's": (lambda path: stamp_of(path, lambda s: {**s, "partition": "b"}), "belongs to 'documents' of 'b'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_table_counts_as_missing_and_its_fault_is_named(
    tables: ShardTables, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage, words = FAULTS[fault]
    damage(place(tables))
    assert words in tables.damage("documents", "a")
    assert not tables.has("documents", "a")
    assert tables.stamps("documents", ["a"]) == {}
    for use in (tables.read, tables.scan, tables.require_stamp):
        with pytest.raises(MissingTableError, match="is damaged for partition 'a'") as raised:
            use("documents", "a")
        assert words in str(raised.value)
    tables.write(FRAME, stamped())
    assert tables.read("documents", "a").equals(FRAME)


def test_a_table_that_may_not_be_read_is_named(tables: ShardTables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may read all
    assert "this user may not read its file" in tables.damage("documents", "a")


def test_a_flipped_bit_is_noticed_in_whichever_byte_it_is(tables: ShardTables) -> None:
    tables.write(FRAME.head(3), stamped(rows=3))
    path, picks = place(tables), random.Random(0)
    whole = path.read_bytes()
    unseen = []
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1 << picks.randrange(8)
        path.write_bytes(content)
        if not tables.damage("documents", "a"):
            unseen.append(position)
    assert unseen == []


def test_a_table_cut_anywhere_is_noticed(tables: ShardTables) -> None:
    path = place(tables)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert tables.damage("documents", "a"), length


@pytest.mark.parametrize("fault", ["cut short", "empty", "text", "folder", "newer", "json"])
def test_a_look_at_stamps_alone_names_files_that_are_no_tables(tables: ShardTables, tmp_path: Path, fault: str) -> None:
    damage, words = FAULTS[fault]
    damage(place(tables))
    assert words in KnownStamps(str(tmp_path)).damage("documents", "a")


def test_a_look_that_verifies_reads_the_bytes_too(tables: ShardTables, tmp_path: Path) -> None:
    a_page_flipped(place(tables))
    assert KnownStamps(str(tmp_path)).damage("documents", "a") == ""
    assert "digest differs" in KnownStamps(str(tmp_path), verify=True).damage("documents", "a")


def test_a_table_from_before_there_were_digests_is_taken_as_it_is(tables: ShardTables) -> None:
    stamp_of(place(tables), lambda stamp: stamp)
    assert tables.read("documents", "a").equals(FRAME)


def test_rows_that_are_not_those_of_the_stamp_are_refused_without_a_digest_too(
    tables: ShardTables, tmp_path: Path
) -> None:
    stamp_of(place(tables), lambda stamp: {**stamp, "facts": {"rows": 7}})
    for look in (tables, KnownStamps(str(tmp_path))):
        assert look.damage("documents", "a") == "it has 200 rows, and its stamp says 7"
        assert not look.has("documents", "a")
        for use in (look.read, look.scan, look.require_stamp):
            with pytest.raises(MissingTableError, match="it has 200 rows, and its stamp says 7"):
                use("documents", "a")
        with pytest.raises(MissingTableError, match="has no partition yet"):
            look.scan_many("documents", ["a"])


def test_a_look_at_stamps_alone_knows_what_a_reader_of_bytes_found(tables: ShardTables, tmp_path: Path) -> None:
    path = place(tables)
    a_page_flipped(path)
    assert "digest differs" in tables.damage("documents", "a")
    assert "digest differs" in KnownStamps(str(tmp_path)).damage("documents", "a")
    tables.write(FRAME, stamped())
    assert KnownStamps(str(tmp_path)).has("documents", "a")
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_hashed_again_only_if_it_changed(tables: ShardTables, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr("el_resources.store.hashing.fault_in", lambda file: hashed.append(file.name) or "")
    path = place(tables)
    os.utime(path, ns=(1, 1))
    assert [fault_of(str(path)), fault_of(str(path))] == ["", ""]
    assert len(hashed) == 1
    os.utime(path, ns=(2, 2))
    fault_of(str(path))
    assert len(hashed) == 2


def test_temporary_files_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".a.parquet.0.tmp", tmp_path / ".b.parquet.1.tmp"
    for path in (old, young):
        path.touch()
    yesterday = time.time() - ORPHAN_SECONDS - 60
    os.utime(old, (yesterday, yesterday))
    write_whole(tmp_path / "c", lambda temporary: temporary.touch())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.parquet.1.tmp", "c"]


def test_bytes_and_the_renaming_are_on_the_disk_before_a_write_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    ShardTables(str(tmp_path)).write(FRAME, stamped())
    file, folder = flushed
    assert file.startswith(".a.parquet.")
    assert file.endswith(".tmp")
    assert folder == "documents"


def test_a_write_that_fails_leaves_the_earlier_table(tables: ShardTables, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="is not writable"):
        tables.write(FRAME.head(3), stamped(rows=3))
    monkeypatch.undo()
    assert tables.read("documents", "a").equals(FRAME)
    assert list(place(tables).parent.glob(".*")) == []
