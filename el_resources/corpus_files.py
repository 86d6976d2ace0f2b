"""Corpora that are files, read as el_resources.shard_files says: one document per row or line.

A text that is not UTF-8 sets its document aside. A file without the text column is refused, and the error lists the
columns that it has.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from el_resources.corpus_source import CorruptShardError, SourceDocument
from el_resources.shard_files import (
    JSONL_SUFFIXES,
    PARQUET_SUFFIXES,
    ShardFiles,
    cells,
    decoded,
    is_text,
    json_lines,
    label,
    parquet_batches,
)

# Part of every fingerprint: raise it when the same bytes are read differently.
READER_VERSION = 1
DEFAULT_TEXT_COLUMN = "text"
NAME_THE_COLUMN = "name the one that holds the text with EL_TEXT_COLUMN (text_column)"


@dataclass(kw_only=True)
class FileCorpus(ShardFiles):
    """What corpora of files share beside their files: the column that holds the text."""

    text_column: str | None = None

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        return self._read(shard, self._path(shard))

    @abstractmethod
    def _read(self, shard: str, path: str) -> Iterator[SourceDocument]: ...

    def _reader(self) -> tuple[object, ...]:
        return (type(self).__name__, READER_VERSION, self._text_column)

    @property
    def _text_column(self) -> str:
        return self.text_column or DEFAULT_TEXT_COLUMN


class ParquetCorpus(FileCorpus):
    """`parquet:`; the columns of FineWeb-Edu (text, id, url) and Cosmopedia (text), any other text column by name."""

    suffixes = PARQUET_SUFFIXES

    def _read(self, shard: str, path: str) -> Iterator[SourceDocument]:
        for batch in parquet_batches(self.filesystem, shard, path, lambda schema: self._wanted(schema, path)):
            columns = (cells(batch, name) for name in (self._text_column, "id", "url", "license"))
            for text, source_id, url, license_ in zip(*columns, strict=True):
                yield document(text, source_id=source_id, url=url, license_=license_)

    def _wanted(self, schema: pa.Schema, path: str) -> list[str]:
        column = self._text_column
        if column not in schema.names:
            raise ValueError(f"{path} has no column {column!r} but {', '.join(schema.names)}; {NAME_THE_COLUMN}")
        if not is_text(schema.field(column).type):
            raise ValueError(f"{path}: column {column!r} holds {schema.field(column).type}; {NAME_THE_COLUMN}")
        return [name for name in dict.fromkeys([column, "id", "url", "license"]) if name in schema.names]


class JsonlCorpus(FileCorpus):
    """`jsonl:`; one object per line, plain or gzip, with a text and optionally `id`, `url` and `license`."""

    suffixes = JSONL_SUFFIXES

    def _read(self, shard: str, path: str) -> Iterator[SourceDocument]:
        for number, row in json_lines(self.filesystem, shard, path):
            if row is None:
                yield SourceDocument(source_id=None, text="", set_aside_reason="not_utf8")
            else:
                yield self._row_document(shard, path, number, row)

    def _row_document(self, shard: str, path: str, number: int, row: dict[str, Any]) -> SourceDocument:
        if self._text_column not in row:
            reason = f"line {number} has no {self._text_column!r} but {', '.join(map(repr, row))}; {NAME_THE_COLUMN}"
            raise CorruptShardError(shard, path, reason)
        text = row[self._text_column]
        if not isinstance(text, str | None):
            reason = f"line {number}: {self._text_column!r} holds {type(text).__name__}, not text; {NAME_THE_COLUMN}"
            raise CorruptShardError(shard, path, reason)
        return document(text, source_id=row.get("id"), url=row.get("url"), license_=row.get("license"))


def document(text: str | bytes | None, *, source_id: Any, url: Any = None, license_: Any = None) -> SourceDocument:
    """The document of one row; set aside where its text is not UTF-8."""
    try:
        content, reason = decoded(text), None
    except UnicodeError:
        content, reason = "", "not_utf8"
    return SourceDocument(
        source_id=label(source_id) or None,
        text=content,
        url=label(url),
        license=label(license_),
        set_aside_reason=reason,
    )
