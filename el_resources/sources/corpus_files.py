"""Corpora in files (el_resources.sources.file_formats reads them): one document per row or line.

Columns or keys: the text (`text`, or the name in EL_TEXT_COLUMN) and, if they exist, `id`, `url` and `license`. So
FineWeb-Edu (text, id, url) and Cosmopedia (text) are read as they are. A Parquet file without the text column is
refused, and the error lists its columns. A row without a licence gets the licence of its repository, if it has one.

A row whose text cannot be read becomes a document that is set aside, with its line or row number in `detail`:
| reason | content of the row |
|---|---|
| not_utf8 | text that is not UTF-8, or a lone surrogate |
| not_json, not_an_object | a line that is not JSON, or is another JSON value than an object |
| no_text | an object without the text's key |
| text_not_text | a number, NaN, a list, … for a text |
| line_too_long, text_too_long | more bytes or characters than el_resources.sources.row_limits allows |
el_resources.sources.bad_rows limits their number in a file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from el_resources.listed_names import listed
from el_resources.sources.contracts import SourceDocument
from el_resources.sources.file_formats import BadRow, cells, decoded, is_text, json_lines, label, parquet_batches
from el_resources.sources.file_source import FileSource
from el_resources.sources.row_limits import RowLimits

# Part of every fingerprint; it rises when the same bytes are read differently.
READER_VERSION = 2
DEFAULT_TEXT_COLUMN = "text"
FIELDS = ("id", "url", "license")
COLUMNS_SHOWN = 12
NAME_THE_COLUMN = "name the one that holds the text with EL_TEXT_COLUMN (text_column)"


@dataclass(kw_only=True)
class FileCorpus(FileSource[SourceDocument]):
    """The documents in a source's files."""

    text_column: str
    limits: RowLimits = field(default_factory=RowLimits)

    def shard_fingerprint(self, shard: str) -> str:
        return self.files.fingerprint(shard, ("corpus", READER_VERSION, self.text_column, *self.limits.fingerprint()))

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        return self.items(shard)

    def _parquet(self, shard: str, path: str) -> Iterator[SourceDocument]:
        number = 0
        for batch in parquet_batches(self.files.filesystem, shard, path, self._wanted, self.limits):
            for text, *fields in zip(*(cells(batch, name) for name in (self.text_column, *FIELDS)), strict=True):
                number += 1
                yield self._document(f"row {number}", text, dict(zip(FIELDS, fields, strict=True)))

    def _wanted(self, schema: pa.Schema) -> list[str]:
        column = self.text_column
        if column not in schema.names:
            raise ValueError(
                f"it has no column {column!r}; it has {listed(schema.names, COLUMNS_SHOWN)}; {NAME_THE_COLUMN}"
            )
        if not is_text(schema.field(column).type):
            raise ValueError(f"its column {column!r} holds {schema.field(column).type}, not text; {NAME_THE_COLUMN}")
        return [name for name in dict.fromkeys([column, *FIELDS]) if name in schema.names]

    def _jsonl(self, shard: str, path: str) -> Iterator[SourceDocument]:
        for number, row in json_lines(self.files.filesystem, shard, path, self.limits):
            if isinstance(row, BadRow):
                yield self._set_aside(row, {})
            elif flaw := self._flaw(number, row):
                yield self._set_aside(flaw, row)
            else:
                yield self._document(f"line {number}", row[self.text_column], row)

    def _flaw(self, number: int, row: Mapping[str, Any]) -> BadRow | None:
        """Return the flaw of a JSON object without text; None if it has a text. A null is an empty text."""
        column = self.text_column
        if column not in row:
            return BadRow(
                "no_text", f"line {number} has no {column!r}; it has {listed(row, COLUMNS_SHOWN)}; {NAME_THE_COLUMN}"
            )
        text = row[column]
        if isinstance(text, str | None):
            return None
        found = "NaN" if text != text else type(text).__name__
        return BadRow("text_not_text", f"line {number}: {column!r} holds {found}, not text")

    def _document(self, place: str, text: str | bytes | None, fields: Mapping[str, Any]) -> SourceDocument:
        """Return the document of one row, which is set aside if its text is not UTF-8, or too long."""
        if isinstance(text, bytes) and len(text) > self.limits.line_bytes:
            return self._set_aside(BadRow("line_too_long", self.limits.line_too_long(place, len(text))), fields)
        try:
            content = decoded(text)
        except UnicodeError:
            return self._set_aside(BadRow("not_utf8", f"{place}: the text is not UTF-8"), fields)
        if len(content) > self.limits.text_chars:
            return self._set_aside(BadRow("text_too_long", self.limits.text_too_long(place, len(content))), fields)
        return SourceDocument(text=content, **self._labels(fields))

    def _set_aside(self, flaw: BadRow, fields: Mapping[str, Any]) -> SourceDocument:
        """Return the document of a row whose text cannot be read, with the row's other fields."""
        return SourceDocument(text="", set_aside_reason=flaw.reason, detail=flaw.detail, **self._labels(fields))

    def _labels(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "source_id": label(fields.get("id")) or None,
            "url": label(fields.get("url")),
            "license": label(fields.get("license")) or self.files.license,
        }
