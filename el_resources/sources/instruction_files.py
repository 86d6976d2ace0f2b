"""Instruction samples in files (`file_formats` reads them): one sample per row or line, in two schemas.

- A conversation: `messages`, as in LongAlign, or `conversations`, as in ShareGPT; the module `conversations` explains
  how its turns are read and which exchange is scored.
- `context`, `instruction` and `response`, each a text.
Both may have an `id` and a `license`; a row without a licence gets the licence of its repository, if it has one. A row
with both schemas is read as a conversation, unless that is null. A null is an empty text. EL_INSTRUCTION_COLUMNS sets
other names of columns, keys and roles (`instruction_columns`), and EL_KEEP_COLUMNS names further columns
that are written with the sample.

A row's conversation is kept as JSON, with all keys in their order; a kept column that a row lacks is omitted. Values of
Arrow are written as JSON: times in ISO 8601; durations, decimals and bytes are texts (in base64 if the bytes are not
UTF-8); a map is a list of pairs; NaN is null.

Rows are set aside for the reasons of `conversations`, and a line without either schema as `other_columns`.
Two kinds of file are refused, with an error that lists the columns: a file in which no row has a schema, and a Parquet
file whose columns hold other types.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import partial
from typing import Any

import pyarrow as pa

from el_resources.sources.contracts import CorruptShardError, SourceSample, Turn
from el_resources.sources.conversations import (
    NotASample,
    ScoredTexts,
    read_turns,
    refuse_empty,
    scored_texts,
    text_of,
)
from el_resources.sources.file_formats import BadRow, cells, is_text, json_lines, label, parquet_batches
from el_resources.sources.file_source import FileSource
from el_resources.sources.instruction_columns import InstructionColumns, PoolReading
from el_resources.sources.row_limits import RowLimits

# Part of every fingerprint; it rises when the same bytes are read differently.
READER_VERSION = 3

Row = Mapping[str, Any]


@dataclass(kw_only=True)
class FileInstructions(FileSource[SourceSample]):
    """The samples in a source's files; lines of both schemas may be mixed, and a Parquet file has one or both."""

    reading: PoolReading
    limits: RowLimits = field(default_factory=RowLimits)

    def shard_fingerprint(self, shard: str) -> str:
        return self.files.fingerprint(shard, self._reader())

    def _reader(self) -> tuple[object, ...]:
        return ("instructions", READER_VERSION, *self.reading.fingerprint(), *self.limits.fingerprint())

    def samples(self, shard: str) -> Iterator[SourceSample]:
        return self.items(shard)

    def _jsonl(self, shard: str, path: str) -> Iterator[SourceSample]:
        seen = SeenColumns(self.reading)
        for number, row in json_lines(self.files.filesystem, shard, path, self.limits):
            if isinstance(row, BadRow):
                yield set_aside(None, self.files.license, NotASample(row.reason, row.detail))
            else:
                seen.add(number, row)
                yield self._sample_of(row, f"line {number}")
        if problem := seen.problem():
            raise CorruptShardError(shard, path, problem)

    def _parquet(self, shard: str, path: str) -> Iterator[SourceSample]:
        wanted, number = partial(wanted_columns, reading=self.reading), 0
        for batch in parquet_batches(self.files.filesystem, shard, path, wanted, self.limits):
            names = batch.schema.names
            values = (values_of(batch, name, self.reading) for name in names)
            for row in zip(*values, strict=True):
                number += 1
                yield self._sample_of(dict(zip(names, row, strict=True)), f"row {number}")

    def _sample_of(self, row: Row, place: str) -> SourceSample:
        """Return the sample of a row; one without texts if the row is set aside."""
        columns = self.reading.columns
        source_id = label(row.get(columns.id)) or None
        license_ = label(row.get(columns.license)) or self.files.license
        try:
            texts, turns, original = read_row(row, self.reading, place)
            self._refuse_long(texts, turns, place)
            kept = kept_columns(row, self.reading.keep)
        except NotASample as flaw:
            return set_aside(source_id, license_, flaw)
        return SourceSample(
            source_id=source_id,
            context=texts.context,
            instruction=texts.instruction,
            response=texts.response,
            later=texts.later,
            n_turns=texts.n_turns,
            turns=tuple(turns),
            original=as_json(original),
            kept_columns=kept,
            license=license_,
        )

    def _refuse_long(self, texts: ScoredTexts, turns: Sequence[Turn], place: str) -> None:
        """Raise NotASample if the conversation is longer than the limit."""
        scored = len(texts.context) + len(texts.instruction) + len(texts.response)
        n_chars = sum(len(turn.text) for turn in turns) if turns else scored
        if n_chars > self.limits.text_chars:
            raise NotASample("text_too_long", self.limits.text_too_long(place, n_chars))


@dataclass
class SeenColumns:
    """Record of the keys of a file's lines, by which the file may be refused.

    Attributes:
        first_other: problem of the first line without a schema; empty if there is none.
        has_schema: True if a line has a schema.
    """

    reading: PoolReading
    first_other: str = ""
    has_schema: bool = False

    def add(self, number: int, row: Row) -> None:
        if has_schema(row, self.reading.columns):
            self.has_schema = True
        elif not self.first_other:
            self.first_other = f"line {number} has {listed(row)}; {self.reading.columns.described()}"

    def problem(self) -> str:
        """Return the reason for which the file is refused; empty if it is not."""
        return "" if self.has_schema else self.first_other


def has_schema(row: Row | Sequence[str], columns: InstructionColumns) -> bool:
    """Return True if these are the keys of a sample."""
    return any(name in row for name in columns.messages) or all(name in row for name in columns.texts)


def read_row(row: Row, reading: PoolReading, place: str) -> tuple[ScoredTexts, Sequence[Turn], Any]:
    """Return a row's scored texts, its turns, and its conversation as stored; raise NotASample if it has none."""
    columns = reading.columns
    if not has_schema(row, columns):
        raise NotASample("other_columns", f"{place} has {listed(row)}; {columns.described()}")
    lists = [name for name in columns.messages if name in row]
    name = next((name for name in lists if row[name] is not None), None)
    if name is None and all(text in row for text in columns.texts):
        return explicit_texts(row, columns), (), {text: row[text] for text in columns.texts}
    messages = row[name or lists[0]]
    if isinstance(messages, NotASample):
        raise messages
    turns = read_turns(messages, columns)
    return scored_texts(turns, reading.exchange), turns, messages


def explicit_texts(row: Row, columns: InstructionColumns) -> ScoredTexts:
    """Return the texts of a row that has a column for each."""
    context, instruction, response = (text_of(row[name], f"the {name}") for name in columns.texts)
    texts = ScoredTexts(context=context, instruction=instruction, response=response)
    refuse_empty(texts)
    return texts


def kept_columns(row: Row, names: Sequence[str]) -> str | None:
    """Return the kept columns of a row as a JSON object, without those that it lacks; None if none is asked for."""
    if not names:
        return None
    kept = {name: row[name] for name in names if name in row}
    if flaw := next((value for value in kept.values() if isinstance(value, NotASample)), None):
        raise flaw
    return as_json(kept)


def set_aside(source_id: str | None, license_: str, flaw: NotASample) -> SourceSample:
    """Return the sample of a row that is set aside, without texts and without an exchange."""
    return SourceSample(
        source_id=source_id,
        context="",
        instruction="",
        response="",
        n_turns=0,
        license=license_,
        set_aside_reason=flaw.reason,
        detail=flaw.detail,
    )


def wanted_columns(schema: pa.Schema, reading: PoolReading) -> list[str]:
    """Return the columns of a Parquet file that are read; raise ValueError if they are missing or hold other types."""
    columns, names = reading.columns, schema.names
    if not has_schema(names, columns):
        raise ValueError(f"its columns are {listed(names)}; {columns.described()}")
    lists = [name for name in columns.messages if name in names]
    texts = [*columns.texts] if all(name in names for name in columns.texts) else []
    for name in lists or texts:
        kind = schema.types[names.index(name)]
        if not (holds_messages(kind, columns) if name in lists else is_text(kind)):
            raise ValueError(f"column {name!r} holds {kind}; {columns.described()}")
    more = [name for name in (columns.id, columns.license, *reading.keep) if name in names]
    return list(dict.fromkeys([*lists, *texts, *more]))


def holds_messages(kind: pa.DataType, columns: InstructionColumns) -> bool:
    """Return True if a column is a list of structs with a role (a text) and a content (a text or a list of parts)."""
    if pa.types.is_null(kind):
        return True
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {one.name: one.type for one in kind.value_type}
    roles, contents = ([fields[name] for name in names if name in fields] for names in (columns.role, columns.content))
    return any(map(is_text, roles)) and any(is_text(one) or holds_parts(one) for one in contents)


def holds_parts(kind: pa.DataType) -> bool:
    """Return True if a message's content is a list of parts."""
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type)


def values_of(batch: pa.RecordBatch, name: str, reading: PoolReading) -> list[Any]:
    """Return a column's values, one for each row.

    Texts, ids and licences that are not also kept columns are given as bytes, which may not be UTF-8.
    """
    columns = reading.columns
    if name not in reading.keep and name in (*columns.texts, columns.id, columns.license):
        return cells(batch, name)
    column = batch.column(name)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar, name) for scalar in column]


def _value(scalar: pa.Scalar, name: str) -> Any:
    """Return a row's value, or the NotASample that sets the row aside: Arrow does not check that text is UTF-8."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NotASample("not_utf8", f"{name} holds text that is not UTF-8")


def as_json(value: Any) -> str:
    """Return a value as JSON that can be encoded as UTF-8; NaN and infinities, which JSON lacks, become null."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:
        return as_json(_without_nan(value))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which stays an escape
        return json.dumps(value, default=_plain)
    return text


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Return as text an Arrow value that JSON cannot represent."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)


def listed(names: Sequence[str] | Row) -> str:
    """Return names in words, for an error."""
    return ", ".join(map(repr, names)) if names else "none"
