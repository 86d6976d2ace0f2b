"""Corpora that are files, read as el_resources.file_formats says: one document per row or line.

Columns or keys: the text (`text`, or the one that EL_TEXT_COLUMN names), and where they are there `id`, `url` and
`license`; those of FineWeb-Edu (text, id, url) and Cosmopedia (text) are read as they are. A text that is not UTF-8
sets its document aside. A file without the text column is refused, and the error lists the columns that it has. A row
without a licence has that of its repository, where the source is one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from el_resources.corpus_source import CorruptShardError, SourceDocument
from el_resources.file_formats import cells, decoded, is_text, json_lines, label, parquet_batches
from el_resources.file_source import FileSource

# Part of every fingerprint: raise it when the same bytes are read differently.
READER_VERSION = 1
DEFAULT_TEXT_COLUMN = "text"
NAME_THE_COLUMN = "name the one that holds the text with EL_TEXT_COLUMN (text_column)"


@dataclass(kw_only=True)
class FileCorpus(FileSource[SourceDocument]):
    """The documents in a source's files."""

    text_column: str

    def shard_fingerprint(self, shard: str) -> str:
        return self.files.fingerprint(shard, ("corpus", READER_VERSION, self.text_column))

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        return self.items(shard)

    def _parquet(self, shard: str, path: str) -> Iterator[SourceDocument]:
        for batch in parquet_batches(self.files.filesystem, shard, path, lambda schema: self._wanted(schema, path)):
            columns = (cells(batch, name) for name in (self.text_column, "id", "url", "license"))
            for text, source_id, url, license_ in zip(*columns, strict=True):
                yield self._document(text, source_id, url, license_)

    def _wanted(self, schema: pa.Schema, path: str) -> list[str]:
        column = self.text_column
        if column not in schema.names:
            raise ValueError(f"{path} has no column {column!r} but {', '.join(schema.names)}; {NAME_THE_COLUMN}")
        if not is_text(schema.field(column).type):
            raise ValueError(f"{path}: column {column!r} holds {schema.field(column).type}; {NAME_THE_COLUMN}")
        return [name for name in dict.fromkeys([column, "id", "url", "license"]) if name in schema.names]

    def _jsonl(self, shard: str, path: str) -> Iterator[SourceDocument]:
        for number, row in json_lines(self.files.filesystem, shard, path):
            if row is None:
                yield SourceDocument(source_id=None, text="", license=self.files.license, set_aside_reason="not_utf8")
            else:
                text = self._text_of(shard, path, number, row)
                yield self._document(text, row.get("id"), row.get("url"), row.get("license"))

    def _text_of(self, shard: str, path: str, number: int, row: dict[str, Any]) -> str | None:
        if self.text_column not in row:
            reason = f"line {number} has no {self.text_column!r} but {', '.join(map(repr, row))}; {NAME_THE_COLUMN}"
            raise CorruptShardError(shard, path, reason)
        text = row[self.text_column]
        if not isinstance(text, str | None):
            reason = f"line {number}: {self.text_column!r} holds {type(text).__name__}, not text; {NAME_THE_COLUMN}"
            raise CorruptShardError(shard, path, reason)
        return text

    def _document(self, text: str | bytes | None, source_id: Any, url: Any, license_: Any) -> SourceDocument:
        """The document of one row; set aside where its text is not UTF-8."""
        try:
            content, reason = decoded(text), None
        except UnicodeError:
            content, reason = "", "not_utf8"
        return SourceDocument(
            source_id=label(source_id) or None,
            text=content,
            url=label(url),
            license=label(license_) or self.files.license,
            set_aside_reason=reason,
        )
