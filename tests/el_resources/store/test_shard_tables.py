"""Tables on a real file system: any partition key, whole or not at all, and never two settings in one reader."""

import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import el_resources
from el_resources.store.shard_tables import LONGEST_FILE_STEM, MissingTableError, ShardTables, file_stem
from el_resources.store.stamps import MixedSettingsError, Stamp, digest

FRAME = pl.DataFrame(
    {"doc_id": ["ä", "b\0"], "token_ids": [[1, 2], []], "nats": [0.5, None]},
    schema={"doc_id": pl.String, "token_ids": pl.List(pl.Int32), "nats": pl.Float32},
)
LONG = "shard " * 60
ODD_NAMES = (
    "../x",
    "..",
    ".",
    "a/b",
    "/etc/passwd",
    "C:\\x",
    "*",
    "[a]",
    "k=v",
    ".hidden",
    "ü ∑",
    "\n\t\0",
    LONG,
    "all",
)


def made(partition: str = "a", asset: str = "scores", **parts: Any) -> Stamp:
    return replace(Stamp(asset=asset, partition=partition, recipe="r1", facts={"rows": 2}), **parts)


@pytest.fixture
def tables(tmp_path: Path) -> ShardTables:
    return ShardTables(str(tmp_path / "store"))


partitions = st.text(min_size=1, max_size=300)


@given(
    partition=partitions, fact=st.one_of(st.none(), st.integers(), st.text(), st.dictionaries(st.text(), st.booleans()))
)
@settings(max_examples=60, deadline=None)
def test_any_partition_round_trips_inside_the_store(partition: str, fact: Any) -> None:
    check_round_trip(partition, fact)


@pytest.mark.parametrize("partition", ODD_NAMES)
def test_odd_partitions_round_trip_inside_the_store(partition: str) -> None:
    check_round_trip(partition, "fact")


def check_round_trip(partition: str, fact: Any) -> None:
    stamp = made(partition, settings={"alpha": 2.0}, pinned={"index_tag": "t"}, facts={"rows": 2, "note": fact})
    with tempfile.TemporaryDirectory() as folder:
        tables = ShardTables(folder)
        assert not tables.exists("scores", partition)
        tables.write(FRAME, stamp)
        assert tables.read("scores", partition).equals(FRAME)
        assert tables.read("scores", partition).schema == FRAME.schema
        assert tables.stamp("scores", partition) == stamp
        (file,) = (path for path in Path(folder).rglob("*") if path.is_file())
        assert file.parent == Path(folder, "tables", "scores")
        assert str(file) == str(tables.path("scores", partition))
        tables.remove("scores", partition)
        assert tables.stamp("scores", partition) is None


@given(one=partitions, other=partitions)
@example(one="a/b", other="a%2Fb")
@example(one=".", other="%2E")
@example(one="a~b", other="a%7Eb")
@example(one="\u00e9", other="e\u0301")  # one code point, and two
@example(one=LONG, other=LONG + " ")
@example(one=LONG, other=file_stem(LONG))  # a key that reads like the name made for a long one
@settings(max_examples=300, deadline=None)
def test_two_partitions_never_share_a_file(one: str, other: str) -> None:
    assert (file_stem(one) == file_stem(other)) == (one == other)
    assert 0 < len(file_stem(one).encode()) <= LONGEST_FILE_STEM


def test_an_empty_partition_is_refused() -> None:
    with pytest.raises(ValueError, match="a partition key is empty; give the shard a name"):
        file_stem("")


def test_writing_again_replaces_table_and_stamp(tables: ShardTables) -> None:
    tables.write(FRAME, made())
    tables.write(FRAME.head(1), made(recipe="r2", facts={"rows": 1}))
    assert tables.read("scores", "a").height == 1
    assert tables.require_stamp("scores", "a").recipe == "r2"


def test_columns_are_chosen(tables: ShardTables) -> None:
    tables.write(FRAME, made())
    assert tables.read("scores", "a", ["nats"]).columns == ["nats"]


@pytest.mark.parametrize("name", ["[a]*", "a?", "*", "{a,b}", "k=v", "with space"])
def test_a_store_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    decoys = [ShardTables(str(tmp_path / decoy)) for decoy in ("a", "ab", "b")]
    for decoy in decoys:
        decoy.write(FRAME.head(1), made(recipe="decoy"))
    tables = ShardTables(str(tmp_path / name))
    assert tables.stamp("scores", "a") is None
    tables.write(FRAME, made())
    assert tables.require_stamp("scores", "a").recipe == "r1"
    assert tables.read("scores", "a").equals(FRAME)
    assert tables.scan_many("scores", ["a"]).collect().height == 2


# Wide enough that polars is in the middle of the file when the limit below is reached.
BIG = pl.DataFrame({"x": np.random.default_rng(0).integers(0, 2**60, size=200_000)})
FILE_LIMIT_BYTES = 100_000


@contextmanager
def limited_file_size() -> Iterator[None]:
    """The kernel refuses to let any file grow beyond the limit, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_the_old_table_and_nothing_else(tables: ShardTables) -> None:
    tables.write(FRAME, made())
    with limited_file_size(), pytest.raises(ValueError, match=r"not writable.*EL_STORE") as raised:
        tables.write(BIG, made(recipe="r2"))
    assert str(tables.store) in str(raised.value)
    assert tables.read("scores", "a").equals(FRAME)
    assert tables.require_stamp("scores", "a").recipe == "r1"
    assert [path.name for path in Path(str(tables.path("scores", "a"))).parent.iterdir()] == ["a.parquet"]


# SIGXFSZ kills as SIGKILL does, without a last word, and exactly in the middle of the file.
KILLED_WRITER = f"""
import resource, signal, sys
import numpy as np, polars as pl
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp
big = pl.DataFrame({{"x": np.random.default_rng(0).integers(0, 2**60, size=200_000)}})
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT_BYTES}, {FILE_LIMIT_BYTES}))
ShardTables(sys.argv[1]).write(big, Stamp(asset="scores", partition=sys.argv[2], recipe="r2"))
"""


def test_a_writer_killed_in_the_middle_leaves_no_half_table(tables: ShardTables) -> None:
    tables.write(FRAME, made())
    for partition in ("a", "new"):
        root = Path(el_resources.__file__).parents[1]
        command = [sys.executable, "-c", KILLED_WRITER, str(tables.store), partition]
        assert subprocess.run(command, cwd=root, check=False).returncode == -signal.SIGXFSZ
    folder = Path(str(tables.path("scores", "a"))).parent
    partial = [path for path in folder.iterdir() if path.suffix == ".tmp"]
    assert [path.stat().st_size for path in partial] == [FILE_LIMIT_BYTES] * 2, "killed in mid-write"
    assert tables.read("scores", "a").equals(FRAME)
    assert tables.stamps("scores", ["a", "new"]) == {"a": made()}
    tables.write(FRAME, made("new"))
    assert tables.read("scores", "new").equals(FRAME)


@pytest.mark.parametrize("in_the_way", ["store", "store/tables", "store/tables/scores"])
def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, in_the_way: str) -> None:
    place = tmp_path / in_the_way
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a file where a folder must be")
    with pytest.raises(ValueError, match=r"(not writable|is a file).*set EL_STORE to a folder") as raised:
        ShardTables(str(tmp_path / "store")).write(FRAME, made())
    assert repr(str(tmp_path / "store")) in str(raised.value)


def test_a_missing_table_says_what_to_do(tables: ShardTables) -> None:
    tables.write(FRAME, made())
    for read in (tables.read, tables.scan, tables.require_stamp):
        with pytest.raises(
            MissingTableError, match=r"table 'scores' has no partition 'b' in store .*materialize scores"
        ):
            read("scores", "b")
    with pytest.raises(MissingTableError, match=r"'pairs' has no partition yet .*materialize pairs first"):
        tables.scan_many("pairs", ["a", "b"])


def test_a_file_that_is_not_ours_is_no_table(tables: ShardTables) -> None:
    path = Path(str(tables.path("scores", "a")))
    path.parent.mkdir(parents=True)
    FRAME.write_parquet(path)
    assert tables.stamp("scores", "a") is None
    with pytest.raises(MissingTableError):
        tables.read("scores", "a")


def test_many_partitions_are_one_frame_with_their_key(tables: ShardTables) -> None:
    for partition in ("b", "../x"):
        tables.write(FRAME, made(partition))
    frame = tables.scan_many("scores", iter(["../x", "absent", "b"])).collect()
    assert frame["shard"].to_list() == ["../x", "../x", "b", "b"]
    assert frame["doc_id"].to_list() == ["ä", "b\0", "ä", "b\0"]


def test_a_reader_over_two_settings_names_both(tables: ShardTables) -> None:
    tables.write(FRAME, made("a", settings={"alpha": 1.5, "seed": 0}))
    tables.write(FRAME, made("b", settings={"seed": 0, "alpha": 1.5}))
    tables.write(FRAME, made("c", settings={"alpha": 2.0, "seed": 0, "epsilon": 0.4}))
    assert tables.scan_many("scores", ["a", "b"]).collect().height == 4
    with pytest.raises(MixedSettingsError) as raised:
        tables.scan_many("scores", ["a", "b", "c"])
    assert str(raised.value) == (
        "partitions of 'scores' were made under different settings: alpha is 1.5 in 'a' and 2.0 in 'c'; "
        "epsilon is None in 'a' and 0.4 in 'c'. Materialize scores for all of them under one setting"
    )


def test_a_fingerprint_is_the_recipe_and_what_is_pinned() -> None:
    plain, pinned = made(), made(pinned={"index_tag": "t1"})
    assert plain.fingerprint == "r1"
    assert (
        made(facts={"rows": 9}, settings={"alpha": 2.0}, pinned={"index_tag": "t1"}).fingerprint == pinned.fingerprint
    )
    fingerprints = {
        plain.fingerprint,
        pinned.fingerprint,
        made(pinned={"index_tag": "t2"}).fingerprint,
        made(recipe="r2", pinned={"index_tag": "t1"}).fingerprint,
    }
    assert len(fingerprints) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), json_values, min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_digest_ignores_the_order_of_keys(value: dict[str, Any]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


def test_digests_tell_values_apart() -> None:
    values = [{}, [], "", None, 0, "0", False, 0.5, [0], [[0]], {"a": 0}, {"a": "0"}, ["a", 0], "\u00e4", "a\u0308"]
    assert len({digest(value) for value in values}) == len(values)
    with pytest.raises(ValueError):
        digest(float("nan"))


def test_many_tables_are_read_in_one_scan(tmp_path: Path) -> None:
    """A plan with a scan for each table costs the square of their number."""
    tables = ShardTables(str(tmp_path))
    names = [f"{number}" for number in range(40)]
    for name in names:
        tables.write(pl.DataFrame({"n": [int(name)]}), Stamp(asset="numbers", partition=name, recipe="r"))
    frame = tables.scan_many("numbers", names)
    assert frame.explain().count("SCAN") == 1
    assert frame.collect().rows() == [(int(name), name) for name in names]


def test_a_store_named_by_a_file_address_is_that_folder(tmp_path: Path) -> None:
    named = ShardTables(f"file://{tmp_path}/store")
    named.write(FRAME, made())
    assert named.read("scores", "a").equals(FRAME)
    assert ShardTables(str(tmp_path / "store")).has("scores", "a")
