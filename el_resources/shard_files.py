"""Sources that are files: `parquet:` and `jsonl:` over a file, a folder (searched below) or a glob. One shard per file.

Guarantees:
- A shard's name is the file's path relative to the folder, or to the part of the glob before its first wildcard. It
  depends on no other file, so new files rename nothing. Characters that a partition key may not hold are
  percent-encoded, and so is the percent sign, which keeps any two names apart.
- The listing is taken once per object, at first use; open the source again to see files that came later.
- Parquet is read a batch of rows at a time, only the columns that are wanted; JSON lines one line at a time.
- Fingerprints are hashes of a file's bytes, remembered while its size and times stand still.

Bytes are reached through fsspec, so that an object store is a file system away; only local paths are accepted so far.
"""

import codecs
import gzip
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types

from el_resources.corpus_source import CorruptShardError, unknown_shard

PARQUET_SUFFIXES = (".parquet",)
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
GZIP_MAGIC = b"\x1f\x8b"
BATCH_ROWS = 256
READ_BUFFER_BYTES = 1 << 20

# Dagster refuses control characters and "..." in partition keys; the surrogates are a name's bytes that are not UTF-8.
NOT_IN_SHARD_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff%]|\.(?=\.\.)")
WILDCARD = re.compile(r"[*?\[]")


@dataclass(kw_only=True)
class ShardFiles(ABC):
    """What sources of files share: listing, shard names, fingerprints."""

    suffixes: ClassVar[tuple[str, ...]]

    uri: str
    location: str
    filesystem: LocalFileSystem = field(default_factory=LocalFileSystem, init=False, repr=False)
    _digests: dict[tuple[str, str], str] = field(default_factory=dict, init=False, repr=False)

    def shards(self) -> list[str]:
        return list(self._paths)

    def shard_fingerprint(self, shard: str) -> str:
        content = f"{self._reader()} {self._file_digest(self._path(shard))}"
        return blake2b(content.encode(), digest_size=16).hexdigest()

    @abstractmethod
    def _reader(self) -> tuple[object, ...]:
        """What decides how a file's bytes are read; part of every fingerprint."""

    @cached_property
    def _paths(self) -> dict[str, str]:
        """Path of every shard, ordered by the shards' names."""
        root, paths = list_files(self.filesystem, self.uri, self.location, self.suffixes)
        return dict(sorted((shard_name(path.removeprefix(root)), path) for path in paths))

    def _path(self, shard: str) -> str:
        if shard not in self._paths:
            raise unknown_shard(shard, self.uri, self.shards())
        return self._paths[shard]

    def _file_digest(self, path: str) -> str:
        key = (path, self.filesystem.ukey(path))  # follows from size, times and inode
        if key not in self._digests:
            with self.filesystem.open(path, "rb") as file:
                self._digests[key] = file_digest(file, "blake2b").hexdigest()
        return self._digests[key]


def list_files(
    filesystem: LocalFileSystem, uri: str, location: str, suffixes: tuple[str, ...]
) -> tuple[str, list[str]]:
    """The folder that shard names are relative to, and the files that `location` means; never none."""
    if not location or "://" in location:
        raise ValueError(f"source {uri!r} names no local path; write one after the scheme: a file, a folder or a glob")
    path = str(Path(location).expanduser().absolute())
    if filesystem.isfile(path):
        return folder_of(path), [path]
    if filesystem.isdir(path):
        files = [file for file in filesystem.find(path) if file.lower().endswith(suffixes) and filesystem.isfile(file)]
        if not files:
            expected = f"no file below {path} ends in {' or '.join(suffixes)}"
            raise FileNotFoundError(f"source {uri!r}: {expected}; name files that are called otherwise by a glob")
        return folder_of(f"{path}/"), files
    if not (wildcard := WILDCARD.search(path)):
        raise FileNotFoundError(f"source {uri!r}: {path} does not exist; name a file, a folder or a glob")
    files = [file for file in filesystem.glob(path) if filesystem.isfile(file)]
    if not files:
        raise FileNotFoundError(f"source {uri!r}: no file matches {path}; name a file, a folder or a glob that does")
    return folder_of(path[: wildcard.start()]), files


def folder_of(path: str) -> str:
    """The path up to and with its last slash."""
    return path[: path.rindex("/") + 1]


def shard_name(relative_path: str) -> str:
    """A partition key that reads like the path; two paths never share one."""
    return NOT_IN_SHARD_NAMES.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")), relative_path
    )


def parquet_batches(
    filesystem: LocalFileSystem, shard: str, path: str, columns: Callable[[pa.Schema], list[str]]
) -> Iterator[pa.RecordBatch]:
    """A Parquet file's rows, batch by batch; `columns` says which it wants, or refuses the schema."""
    with filesystem.open(path, "rb") as file, corruption_named(shard, path):
        parquet = pq.ParquetFile(file, buffer_size=READ_BUFFER_BYTES, page_checksum_verification=True)
        yield from parquet.iter_batches(BATCH_ROWS, columns=columns(parquet.schema_arrow))


def json_lines(filesystem: LocalFileSystem, shard: str, path: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Number and object of every line that is not blank, plain or gzip; None for a line that is not UTF-8."""
    with filesystem.open(path, "rb") as file, corruption_named(shard, path):
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        if path.endswith(".gz") and not zipped:
            raise CorruptShardError(shard, path, "named .gz but not a gzip file")
        file.seek(0)
        for number, line in enumerate(gzip.GzipFile(fileobj=file) if zipped else file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, _json_object(shard, path, number, line)


def _json_object(shard: str, path: str, number: int, line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError) as error:
        raise CorruptShardError(shard, path, f"line {number} is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise CorruptShardError(shard, path, f"line {number} is not a JSON object but {type(row).__name__}")
    return row


@contextmanager
def corruption_named(shard: str, path: str) -> Iterator[None]:
    """Turns decoders' errors into CorruptShardError; errors of the system, which carry an errno, stay what they are."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
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
