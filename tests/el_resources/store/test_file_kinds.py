"""Files that hold no data are named for what they are, under whatever name they were saved."""

import json
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from el_resources.sources.contracts import CorruptShardError, SourceDocument
from el_resources.sources.opening import open_corpus
from el_resources.store.file_kinds import other_than_data, refuse_pointers

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n  <!doctype html>\n<html><title>404</title></html>"
ROW = b'{"text": "a"}\n'

# Content that neither format holds, and what is said of it.
FOREIGN = {
    "LFS pointer": (LFS, "a Git LFS pointer; fetch its content with `git lfs pull`"),
    "Xet pointer": (b"# xet version 0\nfilesize = 1\n", "a Xet pointer; fetch its content"),
    "annex pointer": (b"/annex/objects/SHA256E-s1--ab.jsonl\n", "a git-annex pointer; .*`git annex get`"),
    "HTML": (PAGE, "an HTML or XML page, as a server sends for an error or a login; download the file itself"),
    "HTML after a byte order mark": (b"\xef\xbb\xbf" + PAGE, "an HTML or XML page"),
    "S3's error": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "an HTML or XML page"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF; extract its text"),
    "zip": (b"PK\x03\x04\x14\0", "a zip archive; unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive; unpack it"),
    "lz4": (b"\x04\x22\x4d\x18\x64\x40", "compressed with lz4, which is not read; compress it with gzip or zstd"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "a picture"),
}


def read(uri: str) -> list[SourceDocument]:
    (shard,) = (corpus := open_corpus(uri)).shards()
    return list(corpus.documents(shard))


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_other_content_is_named(tmp_path: Path, name: str, kind: str) -> None:
    content, words = FOREIGN[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptShardError, match=rf"{name}: it is {words}"):
        read(f"{'parquet' if name == 'a.parquet' else 'jsonl'}:{tmp_path / name}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps([{"text": "a"}, {"text": "b"}]).encode(), r"a JSON array, not JSON lines; .*jq -c '\.\[\]' FILE"),
        (json.dumps([{"text": "a"}, {"text": "b"}], indent=2).encode(), "a JSON array"),
        (b'\xef\xbb\xbf\n[\n\n  {"text": "a"}\n]', "a JSON array"),
        (b"[]", "a JSON array"),
        (json.dumps([{"text": "a" * 100_000}] * 5).encode(), "a JSON array"),
        (json.dumps({"text": "a", "id": 1}, indent=2).encode(), "one JSON object over many lines"),
        ('{"text": "a"}\n'.encode("utf-16"), "text in UTF-16 or UTF-32; convert it with `iconv"),
        ('{"text": "a"}\n'.encode("utf-16-le"), "text in UTF-16 or UTF-32"),
        ('{"text": "a"}\n'.encode("utf-32-be"), "text in UTF-16 or UTF-32"),
        (bytes(4096), "not text, but binary data"),
        (bytes(range(256)) * 8, "not text, but binary data"),
    ],
)
def test_text_that_is_no_json_lines_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(CorruptShardError, match=f"it is {words}"):
        read(f"jsonl:{tmp_path}")


def test_tables_under_the_name_of_json_lines_are_named(tmp_path: Path) -> None:
    path, table = tmp_path / "a.jsonl", pa.table({"text": ["a"]})
    pq.write_table(table, path)
    with pytest.raises(CorruptShardError, match="it is Parquet; read it by parquet:"):
        read(f"jsonl:{path}")
    pyarrow.orc.write_table(table, path)
    with pytest.raises(CorruptShardError, match="it is an ORC file; write it as Parquet"):
        read(f"jsonl:{path}")
    with pyarrow.ipc.new_file(path, table.schema) as writer:
        writer.write(table)
    with pytest.raises(CorruptShardError, match="it is an Arrow file; write it as Parquet"):
        read(f"jsonl:{path}")
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("create table documents (text)")
    with pytest.raises(CorruptShardError, match="it is an SQLite database; export its table"):
        read(f"jsonl:{path}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ROW, "it is JSON, not Parquet; read JSON lines by jsonl:"),
        (b"[1]", "it is JSON, not Parquet"),
        (b"\x1f\x8b\x08\x00", "it is compressed with gzip as a whole; decompress it"),
        (b"", "it is an empty file"),
        (b"0123456789abcdef", "it is not Parquet, which begins with PAR1"),
        (b"PAR1" + b"cut off before its footer", "it is Parquet without its end; fetch it again"),
    ],
)
def test_what_is_no_parquet_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(CorruptShardError, match=words):
        read(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    "lines",
    [
        b'["a", 1]\n' + ROW,  # a bad row, no JSON document
        b'[{"role": "user"}]\n[{"role": "user"}]\n' + ROW,
        b'{"text": "\\u0000"}\n' * 3,
        b'{"text": "a\0b"}\n' + ROW * 30,  # one bad row
        b"\n\n" + ROW,
        b"<p>\n" + ROW,
        b"",
    ],
)
def test_bad_rows_are_not_taken_for_another_kind_of_file(tmp_path: Path, lines: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines)
    assert len(read(f"jsonl:{tmp_path}")) == sum(bool(line.strip()) for line in lines.splitlines())


@pytest.mark.parametrize("head", [b"", b"<s>\n</s>\n<unk>", b"\n\x0e\n\x05<unk>\x15", b"IQ== 0\n", b"#version: 0.2\n"])
def test_vocabularies_are_data(head: bytes) -> None:
    assert other_than_data(head) is None


def test_pointers_in_a_folder_are_named_but_for_weights_that_are_not_read(tmp_path: Path) -> None:
    for name in ("onnx/model.json", "pytorch_model.bin", ".git/x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(LFS)
    refuse_pointers(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_bytes(LFS)
    with pytest.raises(ValueError, match=r"1_Pooling/config\.json is a Git LFS pointer"):
        refuse_pointers(tmp_path)
