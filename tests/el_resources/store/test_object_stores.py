"""Tables, index and sources in a real S3 server on loopback, with its faults; sources by other schemes of fsspec."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from el_resources.sources.contracts import CorruptShardError
from el_resources.sources.opening import open_corpus
from el_resources.store.context_store import ContextStore
from el_resources.store.index_rows import ShardChunks
from el_resources.store.object_stores import client_options
from el_resources.store.shard_tables import KnownStamps, MissingTableError, ShardTables
from el_resources.store.stamps import Stamp
from tests.support.s3_server import BUCKET, S3

FRAME = pl.DataFrame({"doc_id": ["ä", "b"], "nats": [0.5, None]})
STORE = f"s3://{BUCKET}/some store"
ROWS = [{"id": str(number), "text": f"text {number} " * 50} for number in range(2000)]


@pytest.fixture
def new_clients(s3: S3) -> Iterator[None]:
    """Clients that read the variables again."""
    s3.filesystem().clear_instance_cache()
    yield
    s3.filesystem().clear_instance_cache()


def made(partition: str = "a", **parts: Any) -> Stamp:
    return Stamp(asset="scores", partition=partition, recipe="r1", facts={"rows": 2}, **parts)


def put_parquet(path: str, rows: list[dict[str, Any]]) -> None:
    with fsspec.open(path, "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=500)


def put_json_lines(path: str, rows: list[dict[str, Any]]) -> None:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    with fsspec.open(path, "wb") as file:
        file.write(gzip.compress(lines) if path.endswith(".gz") else lines)


class TestTables:
    @pytest.mark.parametrize("partition", ["a", "x/y.jsonl", "100 %", "ü ∑", "..", "a+b#c?d"])
    def test_any_partition_round_trips(self, s3: S3, partition: str) -> None:
        tables = ShardTables(STORE)
        assert tables.stamp("scores", partition) is None
        tables.write(FRAME, made(partition))
        assert tables.stamp("scores", partition) == made(partition)
        assert tables.read("scores", partition).equals(FRAME)
        assert tables.scan_many("scores", [partition, "absent"]).collect().height == 2
        assert tables.path("scores", partition).stat().st_size > 0
        tables.remove("scores", partition)
        assert not tables.exists("scores", partition)

    def test_what_another_process_writes_is_seen(self, s3: S3) -> None:
        reader, writer = ShardTables(STORE), ShardTables(STORE)
        assert not reader.exists("scores", "a")
        writer.write(FRAME, made())
        assert reader.read("scores", "a").equals(FRAME)
        writer.remove("scores", "a")
        assert reader.stamp("scores", "a") is None

    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
    def test_passing_errors_of_the_server_are_not_noticed(self, s3: S3, method: str) -> None:
        tables = ShardTables(STORE)
        s3.fail("scores", "500", times=2, method=method)
        s3.fail("scores", "503", times=1, method=method)
        tables.write(FRAME, made())
        assert tables.read("scores", "a").equals(FRAME)
        assert [fault.times for fault in s3.faults] == [0, 0]

    @pytest.mark.parametrize("kind", ["slow", "half"])
    def test_a_slow_or_broken_answer_is_asked_for_again(self, s3: S3, kind: str) -> None:
        tables = ShardTables(STORE)
        tables.write(FRAME, made())
        s3.fail("scores", kind, times=2)
        assert tables.read("scores", "a").equals(FRAME)

    def test_a_truncated_table_is_named_and_not_read(self, s3: S3) -> None:
        tables = ShardTables(STORE)
        tables.write(FRAME, made())
        path = tables.path("scores", "a")
        path.write_bytes(path.read_bytes()[:-30])
        assert tables.stamp("scores", "a") is None
        for read in (tables.read, tables.scan):
            with pytest.raises(MissingTableError, match=r"is damaged for partition .a. .its file is cut short"):
                read("scores", "a")

    def test_a_table_of_other_rows_is_damaged_and_other_bytes_are_found_if_asked_for(self, s3: S3) -> None:
        tables = ShardTables(STORE)
        tables.write(FRAME, replace(made(), facts={"rows": FRAME.height}))
        path = tables.path("scores", "a")
        content = bytearray(path.read_bytes())
        content[20] ^= 1
        path.write_bytes(content)
        assert tables.has("scores", "a")
        assert "digest differs" in KnownStamps(STORE, verify=True).damage("scores", "a")
        tables.write(FRAME, replace(made(), facts={"rows": 7}))
        assert not tables.has("scores", "a")
        with pytest.raises(MissingTableError, match=f"it has {FRAME.height} rows, and its stamp says 7"):
            tables.scan("scores", "a")

    def test_a_write_that_fails_leaves_the_old_table(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        tables = ShardTables(STORE)
        tables.write(FRAME, made())
        s3.fail("scores", "403", times=100, method="PUT")
        with pytest.raises(ValueError, match=rf"store '{STORE}' is not writable .* set EL_STORE to a folder or bucket"):
            tables.write(FRAME.head(1), made())
        assert tables.read("scores", "a").equals(FRAME)

    @pytest.mark.usefixtures("new_clients")
    def test_no_credentials_are_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(ConnectionError, match=r"cannot be reached .*AWS_ACCESS_KEY_ID"):
            ShardTables(STORE).exists("scores", "a")

    @pytest.mark.usefixtures("new_clients")
    def test_a_server_that_is_not_there_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(ConnectionError, match=r"store at http://127.0.0.1:9 cannot be reached .*AWS_ENDPOINT"):
            ShardTables(STORE).exists("scores", "a")


def chunks(fingerprint: str, first: int) -> ShardChunks:
    """Three chunks whose vectors point along axes of their own."""
    columns = {
        "chunk_id": [f"d@{n}" for n in range(first, first + 3)],
        "doc_id": ["d"] * 3,
        "content_hash": [str(n) for n in range(first, first + 3)],
        "text": [f"word{n}" for n in range(first, first + 3)],
        "n_tokens": [1] * 3,
        "vector": pa.FixedSizeListArray.from_arrays(np.eye(8, dtype=np.float32)[first : first + 3].ravel(), 8),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    return ShardChunks(fingerprint=fingerprint, n_rows=3, batches=lambda: iter([batch]))


def test_the_index_is_synced_tagged_and_searched(s3: S3) -> None:
    store = ContextStore(f"{STORE}/context_store")
    with pytest.raises(ValueError, match="was never built"):
        store.open()
    first = store.sync({"a": chunks("1", 0)}, settings={})
    s3.fail("context_store", "500", times=2)
    second = store.sync({"a": chunks("1", 0), "b": chunks("1", 3)}, settings={})
    before = len(s3.written())
    assert not store.sync({"a": chunks("1", 0), "b": chunks("1", 3)}, settings={}).changed
    assert s3.written()[before:] == []
    assert (store.open(first.tag).n_rows, store.open().n_rows) == (3, 6)
    assert store.open(second.tag).search_dense(np.eye(8, dtype=np.float32)[4:5], 1)["chunk_id"].to_list() == ["d@4"]
    assert store.open().search_text(["word2"], 1)["chunk_id"].to_list() == ["d@2"]


class TestSources:
    @pytest.mark.parametrize("scheme", ["s3", "memory", "file"])
    def test_any_scheme_of_fsspec_is_a_source(self, s3: S3, tmp_path: Path, scheme: str) -> None:
        root = {"s3": f"s3://{BUCKET}/in", "memory": f"memory:///{tmp_path.name}", "file": f"file://{tmp_path}"}[scheme]
        put_parquet(f"{root}/b.parquet", ROWS)
        put_parquet(f"{root}/sub/c.parquet", ROWS[:2])
        put_json_lines(f"{root}/a.jsonl", ROWS)
        put_json_lines(f"{root}/z.jsonl.gz", ROWS[:3])
        assert open_corpus(f"parquet:{root}").shards() == ["b.parquet", "sub/c.parquet"]
        assert open_corpus(f"parquet:{root}/*.parquet").shards() == ["b.parquet"]
        corpus = open_corpus(f"jsonl:{root}/")
        assert corpus.shards() == ["a.jsonl", "z.jsonl.gz"]
        for opened, shard, rows in (
            (corpus, "a.jsonl", ROWS),
            (corpus, "z.jsonl.gz", ROWS[:3]),
            (open_corpus(f"parquet:{root}/b.parquet"), "b.parquet", ROWS),
        ):
            assert [(document.source_id, document.text) for document in opened.documents(shard)] == [
                (row["id"], row["text"]) for row in rows
            ]

    @pytest.mark.parametrize("scheme", ["s3", "memory"])
    def test_a_fingerprint_follows_the_content(self, s3: S3, tmp_path: Path, scheme: str) -> None:
        root = f"s3://{BUCKET}/in" if scheme == "s3" else f"memory:///{tmp_path.name}"
        for name, rows in (("a", ROWS), ("b", ROWS), ("c", ROWS[:5])):
            put_json_lines(f"{root}/{name}.jsonl", rows)
        corpus = open_corpus(f"jsonl:{root}")
        one, copy, other = (corpus.shard_fingerprint(shard) for shard in corpus.shards())
        assert one == copy != other
        put_json_lines(f"{root}/a.jsonl", ROWS[:5])
        assert open_corpus(f"jsonl:{root}").shard_fingerprint("a.jsonl") == other

    def test_files_that_came_later_are_seen_by_a_new_listing(self, s3: S3) -> None:
        put_json_lines(f"s3://{BUCKET}/in/a.jsonl", ROWS[:1])
        assert open_corpus(f"jsonl:s3://{BUCKET}/in").shards() == ["a.jsonl"]
        put_json_lines(f"s3://{BUCKET}/in/b.jsonl", ROWS[:1])
        assert open_corpus(f"jsonl:s3://{BUCKET}/in").shards() == ["a.jsonl", "b.jsonl"]

    def test_fingerprints_of_listed_objects_ask_for_nothing(self, s3: S3) -> None:
        for number in range(3):
            put_json_lines(f"s3://{BUCKET}/in/{number}.jsonl", ROWS[:number])
        corpus = open_corpus(f"jsonl:s3://{BUCKET}/in")
        shards, before = corpus.shards(), len(s3.requests)
        assert len({corpus.shard_fingerprint(shard) for shard in shards}) == 3
        assert len(s3.requests) == before

    @pytest.mark.parametrize("kind", ["500", "503", "slow", "half"])
    def test_a_passing_fault_is_not_noticed(self, s3: S3, kind: str) -> None:
        put_parquet(f"s3://{BUCKET}/in/a.parquet", ROWS)
        corpus = open_corpus(f"parquet:s3://{BUCKET}/in")
        assert corpus.shards() == ["a.parquet"]
        s3.fail("a.parquet", kind)
        assert len(list(corpus.documents("a.parquet"))) == 2000
        assert s3.faults[0].times == 0

    @pytest.mark.usefixtures("new_clients")
    @pytest.mark.parametrize(("kind", "error"), [("403", PermissionError), ("500", ConnectionError)])
    def test_a_lasting_fault_is_no_corrupt_shard(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch, kind: str, error: type[OSError]
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        put_parquet(f"s3://{BUCKET}/in/a.parquet", ROWS)
        corpus = open_corpus(f"parquet:s3://{BUCKET}/in")
        assert corpus.shards() == ["a.parquet"]
        s3.fail("a.parquet", kind, times=100)
        with pytest.raises(error, match=rf"s3://{BUCKET}/in at http://\S+ (refuses access|cannot be reached)"):
            list(corpus.documents("a.parquet"))

    @pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz"])
    def test_a_truncated_object_is_named(self, s3: S3, name: str) -> None:
        path, scheme = f"s3://{BUCKET}/in/{name}", "parquet" if name.endswith("parquet") else "jsonl"
        (put_parquet if scheme == "parquet" else put_json_lines)(path, ROWS)
        whole = s3.filesystem().cat_file(path)
        s3.filesystem().pipe_file(path, whole[: len(whole) // 2 + 3])
        corpus = open_corpus(f"{scheme}:{path}")
        with pytest.raises(CorruptShardError, match=rf"shard '{name}' cannot be read from {BUCKET}/in/{name}"):
            list(corpus.documents(name))

    def test_a_line_that_was_cut_off_says_so(self, s3: S3) -> None:
        s3.filesystem().pipe_file(f"s3://{BUCKET}/in/a.jsonl", b'{"text": "whole"}\n{"text": "cut o')
        whole, cut = open_corpus(f"jsonl:s3://{BUCKET}/in").documents("a.jsonl")
        assert (whole.text, cut.set_aside_reason) == ("whole", "not_json")
        assert "the file may be cut off" in cut.detail

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
    def test_compressed_objects_stream(self, s3: S3, pack: Callable[[bytes], bytes]) -> None:
        lines = b"".join(b'{"text": "%d"}\n' % number for number in range(1000))
        s3.filesystem().pipe_file(f"s3://{BUCKET}/in/a.jsonl", pack(lines))
        documents = open_corpus(f"jsonl:s3://{BUCKET}/in").documents("a.jsonl")
        assert [document.text for document in documents] == [str(number) for number in range(1000)]

    def test_only_tiny_objects_are_looked_into_for_pointers(self, s3: S3) -> None:
        files = s3.filesystem()
        files.pipe_file(f"s3://{BUCKET}/in/pointer.jsonl", b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
        files.pipe_file(f"s3://{BUCKET}/in/.hidden/a.jsonl", b"{}")
        put_json_lines(f"s3://{BUCKET}/in/a.jsonl", [{"text": "x" * 2000}])
        corpus = open_corpus(f"jsonl:s3://{BUCKET}/in")
        assert corpus.shards() == ["a.jsonl"]
        assert set(corpus.passed_over()) == {"pointer.jsonl", ".hidden"}

    def test_an_object_that_went_fails_alone(self, s3: S3) -> None:
        for name in ("a", "b"):
            put_json_lines(f"s3://{BUCKET}/in/{name}.jsonl", ROWS[:2])
        corpus = open_corpus(f"jsonl:s3://{BUCKET}/in")
        assert corpus.shards() == ["a.jsonl", "b.jsonl"]
        s3.filesystem().rm(f"s3://{BUCKET}/in/a.jsonl")
        with pytest.raises(CorruptShardError, match="it is not there"):
            list(corpus.documents("a.jsonl"))
        assert len(list(corpus.documents("b.jsonl"))) == 2

    @pytest.mark.parametrize(
        "location", ["s3://nowhere/x.parquet", f"s3://{BUCKET}/absent", f"s3://{BUCKET}/*.parquet"]
    )
    def test_a_place_without_files_is_named(self, s3: S3, location: str) -> None:
        with pytest.raises(FileNotFoundError) as raised:
            open_corpus(f"parquet:{location}").shards()
        assert location in str(raised.value)


def test_a_plain_endpoint_is_allowed_because_it_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert client_options("s3://b/p") == {"aws_endpoint": "http://minio:9000", "aws_allow_http": "true"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.org")
    assert client_options("s3://b/p") == {"aws_endpoint": "https://s3.example.org"}
    assert client_options("/data") is None


def test_keys_of_a_profile_reach_every_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    profile = "[other]\naws_access_key_id = ours\naws_secret_access_key = hush\n"
    (tmp_path / "credentials").write_text(profile)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert client_options("s3://b/p") == {"aws_access_key_id": "ours", "aws_secret_access_key": "hush"}
