"""Parquet and JSON lines through fsspec: rows in bounded memory, and whose fault it is when a file cannot be read.

- Parquet is read a batch of rows at a time, only the columns that are wanted; JSON lines one line at a time.
- What a decoder refuses is a CorruptShardError that names the file. A fault of the disk or the network is none: it is
  raised as it is, so that no shard is taken for corrupt, or for complete, because a connection broke.
"""

import codecs
import errno
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]  # no types

from el_resources.corpus_source import CorruptShardError

FileFormat = Literal["parquet", "jsonl"]
SUFFIXES: dict[FileFormat, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
}
GZIP_MAGIC = b"\x1f\x8b"
BATCH_ROWS = 256
READ_BUFFER_BYTES = 1 << 20
CACHED_BLOCKS = 8  # of a remote file, 5 MiB each unless its file system says otherwise
DECODER_OSERRORS = (OSError, gzip.BadGzipFile)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read.

    Attributes:
        reason: `not_utf8`, `not_json` or `not_an_object`.
        detail: its line and what is wrong with it, in words.
    """

    reason: str
    detail: str


def format_of(path: str) -> FileFormat | None:
    """The format that a file's name tells; None for another."""
    return next((name for name, suffixes in SUFFIXES.items() if path.lower().endswith(suffixes)), None)


def parquet_batches(
    filesystem: AbstractFileSystem, shard: str, path: str, columns: Callable[[pa.Schema], list[str]]
) -> Iterator[pa.RecordBatch]:
    """A Parquet file's rows, batch by batch.

    Args:
        columns: the names of the wanted columns of a schema; raises ValueError for a schema that it refuses, which makes
            the shard a corrupt one.
    """
    # Columns are read in turns: one window that moves ahead, fsspec's default, would fetch the same bytes again.
    kept = {"cache_type": "blockcache", "cache_options": {"maxblocks": CACHED_BLOCKS}}
    with filesystem.open(path, "rb", **kept) as file, corruption_named(shard, path):
        # `pre_buffer` would read a row group's whole columns, however large, before the first row.
        parquet = pq.ParquetFile(file, buffer_size=READ_BUFFER_BYTES, page_checksum_verification=True, pre_buffer=False)
        yield from parquet.iter_batches(BATCH_ROWS, columns=_wanted(shard, path, parquet.schema_arrow, columns))


def _wanted(shard: str, path: str, schema: pa.Schema, columns: Callable[[pa.Schema], list[str]]) -> list[str]:
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        names = ", ".join(map(repr, repeated))
        raise CorruptShardError(shard, path, f"it has more than one column {names}; rename or drop all but one")
    try:
        return columns(schema)
    except ValueError as error:
        raise CorruptShardError(shard, path, str(error)) from error


def json_lines(filesystem: AbstractFileSystem, shard: str, path: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Number and object of every line that is not blank, plain or gzip; a BadRow for a line that holds none."""
    with opened(filesystem, path) as file, corruption_named(shard, path):
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        if path.endswith(".gz") and not zipped:
            raise CorruptShardError(shard, path, "named .gz but not a gzip file")
        file.seek(0)
        for number, line in enumerate(gzip.GzipFile(fileobj=file) if zipped else file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, json_object(number, line)


@contextmanager
def opened(filesystem: AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """A file for reading from its start to its end; OSError where a file of the network ends before its end."""
    with filesystem.open(path, "rb") as file:
        if not isinstance(file, AbstractBufferedFile):
            yield file
            return
        # fsspec's own line reader fetches a whole block for every line.
        yield io.BufferedReader(file, READ_BUFFER_BYTES)
        if file.tell() < file.size:
            raise OSError(errno.EIO, f"the transfer ended at byte {file.tell()} of {file.size}", path)


def json_object(number: int, line: bytes) -> dict[str, Any] | BadRow:
    """The object of a line; `number` counts from 1."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return BadRow("not_utf8", f"line {number} is not UTF-8")
    except json.JSONDecodeError as error:
        return BadRow("not_json", f"line {number} is not JSON ({error.msg} at character {error.pos + 1})")
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"line {number} is not JSON ({error})")
    if not isinstance(row, dict):
        return BadRow("not_an_object", f"line {number} is not a JSON object but {type(row).__name__}")
    return row


@contextmanager
def corruption_named(shard: str, path: str) -> Iterator[None]:
    """Turns decoders' errors into CorruptShardError; errors of system and network stay what they are.

    A decoder's OSError is a plain one without an errno: the system's carry one, the network's have their own classes.
    """
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or type(error) not in DECODER_OSERRORS):
            raise
        raise CorruptShardError(shard, path, str(error)) from error


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold text: bytes can, and a column of nulls holds empty texts."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return holds_bytes(kind) or pa.types.is_null(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    strings = (pa.string(), pa.large_string(), pa.string_view())
    return kind in (*strings, pa.binary(), pa.large_binary(), pa.binary_view())


def cells(batch: pa.RecordBatch, column: str) -> list[Any]:
    """A column's values, Nones where it is missing. Text comes as bytes: Arrow does not check that it is UTF-8."""
    if column not in batch.schema.names:
        return [None] * batch.num_rows
    return array_values(batch.column(column))


def array_values(values: pa.Array) -> list[Any]:
    """An array's values; text as bytes."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return list((values.cast(pa.large_binary()) if holds_bytes(values.type) else values).to_pylist())


def decoded(text: str | bytes | None) -> str:
    """A text that UTF-8 can hold, None as the empty one; raises UnicodeError for others (a lone surrogate is one)."""
    return text.decode("utf-8") if isinstance(text, bytes) else (text or "").encode("utf-8").decode("utf-8")


def label(value: Any) -> str:
    """A short field as text that UTF-8 can hold; what it cannot stays visible as an escape."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
