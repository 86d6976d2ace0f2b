"""Parquet and JSON lines through fsspec: rows in bounded memory, and errors that tell bad files from bad connections.

- Parquet is read in batches of rows, and only in the wanted columns. JSON lines are read line by line, plain or
  compressed (el_resources.sources.compression), whatever the file's name. The error for other content names its kind.
- Neither a long line nor a compressed file needs more memory than the limits allow (el_resources.sources.row_limits).
  The smallest unit of Parquet is a page, so the largest page has to fit; batches of long rows are smaller, and a column
  that is tiny compressed and huge unpacked is refused.
- If a decoder refuses the content, a CorruptShardError names the file. Faults of the disk or the network are raised
  unchanged, so that a broken connection never makes a shard look corrupt or complete.
"""

import codecs
import errno
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]  # no types

from el_resources.sources.compression import READ_BUFFER_BYTES, buffered, decompressed
from el_resources.sources.contracts import CorruptShardError
from el_resources.sources.row_limits import EndlessLineError, RowLimits, bounded_lines
from el_resources.store.file_kinds import HEAD_BYTES, compression_of, other_than_json_lines, other_than_parquet

FileFormat = Literal["parquet", "jsonl"]
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
SUFFIXES: dict[FileFormat, tuple[str, ...]] = {
    "parquet": (".parquet",),
    "jsonl": tuple(f"{plain}{packed}" for plain in (".jsonl", ".ndjson") for packed in ("", *COMPRESSED)),
}
BATCH_ROWS = 256
BATCH_BYTES = 64 << 20  # of the wanted columns, on average
BOMB_RATIO = 1000  # ratio of unpacked to packed bytes; text has less than 30
CACHED_BLOCKS = 8  # of a remote file, 5 MiB each unless its file system says otherwise
DECODER_OSERRORS = (OSError, gzip.BadGzipFile)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read.

    Attributes:
        reason: `not_utf8`, `not_json`, `not_an_object`, or the reason for a row that is longer than the limits allow.
        detail: its line and its flaw, in words.
    """

    reason: str
    detail: str


def format_of(path: str) -> FileFormat | None:
    """Return the format by a file's suffix; None for other suffixes."""
    return next((name for name, suffixes in SUFFIXES.items() if path.lower().endswith(suffixes)), None)


def parquet_batches(
    filesystem: AbstractFileSystem,
    shard: str,
    path: str,
    columns: Callable[[pa.Schema], list[str]],
    limits: RowLimits,
) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file's rows, batch by batch.

    Args:
        columns: returns the names of a schema's wanted columns, or raises ValueError if the schema makes the shard
            corrupt.
    """
    # Columns are read in turns, so fsspec's default, one window that moves ahead, would fetch bytes twice.
    kept = {"cache_type": "blockcache", "cache_options": {"maxblocks": CACHED_BLOCKS}}
    with filesystem.open(path, "rb", **kept) as file, corruption_named(shard, path):
        parquet = _opened_parquet(shard, path, file)
        wanted = _wanted(shard, path, parquet.schema_arrow, columns)
        yield from parquet.iter_batches(_batch_rows(shard, path, parquet, wanted, limits), columns=wanted)


def _batch_rows(shard: str, path: str, parquet: pq.ParquetFile, wanted: list[str], limits: RowLimits) -> int:
    """Return the rows of a batch, fewer if rows are long. Raises CorruptShardError for a decompression bomb."""
    metadata, rows = parquet.metadata, BATCH_ROWS
    numbers = [n for n in range(metadata.num_columns) if metadata.schema.column(n).path.split(".")[0] in wanted]
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        chunks = [group.column(number) for number in numbers]
        for chunk in chunks:
            unpacked, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
            if unpacked > max(limits.line_bytes, BOMB_RATIO * packed):
                sizes = f"{packed:,} bytes that unpack to {unpacked:,}"
                raise CorruptShardError(shard, path, f"its column {chunk.path_in_schema!r} has {sizes}; it is not text")
        n_bytes = sum(chunk.total_uncompressed_size for chunk in chunks)
        rows = max(1, min(rows, BATCH_BYTES * group.num_rows // max(1, n_bytes)))
    return rows


def _opened_parquet(shard: str, path: str, file: Any) -> pq.ParquetFile:
    try:
        # `pre_buffer` would read a row group's whole columns, however large, before the first row.
        return pq.ParquetFile(file, buffer_size=READ_BUFFER_BYTES, page_checksum_verification=True, pre_buffer=False)
    except pa.ArrowInvalid as error:
        file.seek(0)
        problem = other_than_parquet(file.read(HEAD_BYTES))
        if problem is None and "magic bytes not found in footer" in str(error):
            problem = "Parquet without its end; fetch it again"
        raise CorruptShardError(shard, path, f"it is {problem}" if problem else str(error)) from error


def _wanted(shard: str, path: str, schema: pa.Schema, columns: Callable[[pa.Schema], list[str]]) -> list[str]:
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        names = ", ".join(map(repr, repeated))
        raise CorruptShardError(shard, path, f"it has more than one column {names}; rename or drop all but one")
    try:
        return columns(schema)
    except ValueError as error:
        raise CorruptShardError(shard, path, str(error)) from error


def json_lines(
    filesystem: AbstractFileSystem, shard: str, path: str, limits: RowLimits
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Yield number and object of every line that is not blank; a BadRow takes the place of an unreadable object."""
    with opened(filesystem, path) as file, corruption_named(shard, path):
        for number, line in bounded_lines(plain_text(shard, path, file), limits):
            if isinstance(line, int):
                yield number, BadRow("line_too_long", limits.line_too_long(f"line {number}", line))
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, json_object(number, line)


def plain_text(shard: str, path: str, file: IO[bytes]) -> IO[bytes]:
    """Return the text of an opened file of JSON lines as a stream, decompressed if it is compressed.

    Raises:
        CorruptShardError: the content is not JSON lines; the error names its kind.
    """
    text: io.BufferedReader = file if isinstance(file, io.BufferedReader) else buffered(file)
    head, compression = text.peek(HEAD_BYTES), compression_of(text.peek(HEAD_BYTES))
    if compression:
        text = decompressed(text, compression)
        head = text.peek(HEAD_BYTES)
        if again := compression_of(head):
            twice = f"it is compressed twice ({again} within {compression})"
            raise CorruptShardError(shard, path, f"{twice}; decompress it once")
    if not head and not compression and path.lower().endswith(COMPRESSED):
        raise CorruptShardError(shard, path, "it is empty (0 bytes), and a compressed file never is; fetch it again")
    if problem := other_than_json_lines(head):
        within = f" within {compression}" if compression else ""
        raise CorruptShardError(shard, path, f"it is {problem}{within}")
    return text


@contextmanager
def opened(filesystem: AbstractFileSystem, path: str) -> Iterator[IO[bytes]]:
    """Open a file to be read as a whole; a network file that ends too early raises OSError."""
    with filesystem.open(path, "rb") as file:
        # fsspec's own line reader fetches a whole block for every line.
        yield buffered(WholeFile(file)) if isinstance(file, AbstractBufferedFile) else file


class WholeFile(io.RawIOBase):
    """A network file of known size; if the transfer ends before that, reading raises OSError."""

    def __init__(self, file: AbstractBufferedFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n_bytes = int(self._file.readinto(buffer))
        if not n_bytes and (at := self._file.tell()) < self._file.size:
            raise OSError(errno.EIO, f"the transfer ended at byte {at} of {self._file.size}", self._file.path)
        return n_bytes


def json_object(number: int, line: bytes) -> dict[str, Any] | BadRow:
    """Return the object of a line, or a BadRow; `number` counts from 1."""
    try:
        row = json.loads(line.rstrip().decode("utf-8"))
    except UnicodeDecodeError:
        return BadRow("not_utf8", f"line {number} is not UTF-8")
    except json.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else "; it is the last and has no end, so the file may be cut off"
        return BadRow("not_json", f"line {number} is not JSON ({error.msg} at character {error.pos + 1}{cut})")
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", f"line {number} is not JSON ({error})")
    if not isinstance(row, dict):
        return BadRow("not_an_object", f"line {number} is a JSON {type(row).__name__}, not an object")
    return row


@contextmanager
def corruption_named(shard: str, path: str) -> Iterator[None]:
    """Turn decoders' errors into CorruptShardError, and leave errors of system and network unchanged.

    An OSError of a decoder has no errno and no class of its own; those of the system have an errno, and those of the
    network have classes of their own.
    """
    try:
        yield
    except EndlessLineError as error:
        raise CorruptShardError(shard, path, str(error)) from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or type(error) not in DECODER_OSERRORS):
            raise
        raise CorruptShardError(shard, path, _in_words(error)) from error


def _in_words(error: Exception) -> str:
    needs_memory = any(words in str(error) for words in ("too much memory", "Memory usage limit"))
    return f"{error}; compress it with a window of at most 128 MiB" if needs_memory else str(error)


def is_text(kind: pa.DataType) -> bool:
    """Return true if a column of this type can contain text; bytes can, and nulls are empty texts."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return holds_bytes(kind) or pa.types.is_null(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    strings = (pa.string(), pa.large_string(), pa.string_view())
    return kind in (*strings, pa.binary(), pa.large_binary(), pa.binary_view())


def cells(batch: pa.RecordBatch, column: str) -> list[Any]:
    """Return a column's values, Nones if it is missing; text as bytes, since Arrow does not check that it is UTF-8."""
    if column not in batch.schema.names:
        return [None] * batch.num_rows
    return array_values(batch.column(column))


def array_values(values: pa.Array) -> list[Any]:
    """Return an array's values; text as bytes."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return list((values.cast(pa.large_binary()) if holds_bytes(values.type) else values).to_pylist())


def decoded(text: str | bytes | None) -> str:
    """Return the text, empty for None. Raises UnicodeError if UTF-8 cannot encode it (a lone surrogate)."""
    return text.decode("utf-8") if isinstance(text, bytes) else (text or "").encode("utf-8").decode("utf-8")


def label(value: Any) -> str:
    """Return a short field as text; characters that UTF-8 cannot encode are shown as escapes."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")
