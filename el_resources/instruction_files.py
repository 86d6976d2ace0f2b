"""Instruction samples in files, read as el_resources.file_formats says: one sample per row or line, in two schemas.

- `messages`, as LongAlign has it: a list of {role, content}. The first user message holds context, blank line and
  instruction: the instruction is what follows the last blank line ("\\n\\n"; white space at the message's end does not
  count), and without a blank line the whole message. The response is the assistant message after it. A system message
  in front is neither; later exchanges are counted in `n_turns` and not read.
- `context`, `instruction` and `response`, each a text.
Both may have an `id` and a `license`; a row without a licence has that of its repository, where the source is one. A
row with both schemas is read as `messages`. A null is an empty text.

Why rows are set aside:
| reason | what the row has |
|---|---|
| not_utf8 | text that is not UTF-8, or a lone surrogate |
| not_json, not_an_object | a line that is not JSON, or is another JSON value than an object |
| malformed_messages | `messages` that are no list, or one that is no object |
| missing_role | a message without a role |
| unknown_role | a role other than system (in front), user and assistant |
| no_user_turn, no_assistant_turn | no message of that role |
| roles_do_not_alternate | an assistant before the first user, or two messages of one role in a row |
| content_not_text | a text that is a number, a list of parts, … |
| empty_instruction, empty_response | nothing but white space |

A file with neither schema is refused, and the error lists the columns that it has.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from el_resources.corpus_source import CorruptShardError
from el_resources.file_formats import BadRow, array_values, cells, decoded, is_text, json_lines, label, parquet_batches
from el_resources.file_source import FileSource
from el_resources.instruction_source import SourceSample

# Part of every fingerprint: raise it when the same bytes are read differently.
READER_VERSION = 2
TEXTS = ("context", "instruction", "response")
SCHEMAS = "samples have `messages`, a list of {role, content}, or the texts `context`, `instruction` and `response`"
BLANK_LINE = "\n\n"
LONGEST_QUOTED_CHARS = 80

Row = Mapping[str, Any]


@dataclass(kw_only=True)
class FileInstructions(FileSource[SourceSample]):
    """The samples in a source's files; lines of both schemas may mix, a Parquet file has one."""

    def shard_fingerprint(self, shard: str) -> str:
        return self.files.fingerprint(shard, ("instructions", READER_VERSION))

    def samples(self, shard: str) -> Iterator[SourceSample]:
        return self.items(shard)

    def _jsonl(self, shard: str, path: str) -> Iterator[SourceSample]:
        for number, row in json_lines(self.files.filesystem, shard, path):
            if isinstance(row, BadRow):
                yield set_aside(None, self.files.license, NotASample(row.reason, row.detail))
            elif (read := row_reader(row)) is None:
                raise CorruptShardError(shard, path, f"line {number} has {listed(row)}; {SCHEMAS}")
            else:
                yield sample_of(row, read, self.files.license)

    def _parquet(self, shard: str, path: str) -> Iterator[SourceSample]:
        filesystem = self.files.filesystem
        for batch in parquet_batches(filesystem, shard, path, lambda schema: wanted_columns(schema, path)):
            read = row_reader(batch.schema.names)
            assert read, "wanted_columns refuses other schemas"
            values = (message_lists(batch) if name == "messages" else cells(batch, name) for name in batch.schema.names)
            for row in zip(*values, strict=True):
                yield sample_of(dict(zip(batch.schema.names, row, strict=True)), read, self.files.license)


def wanted_columns(schema: pa.Schema, path: str) -> list[str]:
    """The columns that samples are read from; ValueError where they are not there or hold no text."""
    read = row_reader(schema.names)
    if read is None:
        raise ValueError(f"{path} has the columns {listed(schema.names)}; {SCHEMAS}")
    names = ["messages"] if read is first_exchange else list(TEXTS)
    for name in names:
        kind = schema.field(name).type
        if not (holds_messages(kind) if name == "messages" else is_text(kind)):
            raise ValueError(f"{path}: column {name!r} holds {kind}; {SCHEMAS}")
    return [*names, *(name for name in ("id", "license") if name in schema.names)]


def holds_messages(kind: pa.DataType) -> bool:
    """Whether a column is a list of structs with the texts `role` and `content`."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    return all(name in fields and is_text(fields[name]) for name in ("role", "content"))


def message_lists(batch: pa.RecordBatch) -> list[list[dict[str, Any]] | None]:
    """The messages of each row, texts as bytes."""
    column = batch.column("messages")
    structs = column.flatten()
    roles, contents = (array_values(pc.struct_field(structs, name)) for name in ("role", "content"))
    messages = ({"role": role, "content": content} for role, content in zip(roles, contents, strict=True))
    lengths = pc.list_value_length(column).to_pylist()
    return [None if length is None else [next(messages) for _ in range(length)] for length in lengths]


class NotASample(Exception):
    """Why a row is set aside."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def row_reader(names: Sequence[str] | Row) -> Callable[[Row], tuple[str, str, str, int]] | None:
    """What reads (context, instruction, response, exchanges) from rows with these keys; None for neither schema."""
    if "messages" in names:
        return first_exchange
    return explicit_texts if all(name in names for name in TEXTS) else None


def sample_of(row: Row, read: Callable[[Row], tuple[str, str, str, int]], license_: str) -> SourceSample:
    """The sample of a row, or what is left of one that is set aside; `license_` is for rows that name none."""
    source_id, license_ = label(row.get("id")) or None, label(row.get("license")) or license_
    try:
        context, instruction, response, n_turns = read(row)
        for name, text in (("instruction", instruction), ("response", response)):
            if not text.strip():
                raise NotASample(f"empty_{name}", f"the {name} holds no text")
    except NotASample as flaw:
        return set_aside(source_id, license_, flaw)
    return SourceSample(
        source_id=source_id,
        context=context,
        instruction=instruction,
        response=response,
        n_turns=n_turns,
        license=license_,
    )


def set_aside(source_id: str | None, license_: str, flaw: NotASample) -> SourceSample:
    """A row that is no sample; it has no exchange."""
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


def explicit_texts(row: Row) -> tuple[str, str, str, int]:
    """The sample of a row with `context`, `instruction` and `response`."""
    context, instruction, response = (text_of(row[name], f"the {name}") for name in TEXTS)
    return context, instruction, response, 1


def first_exchange(row: Row) -> tuple[str, str, str, int]:
    """The sample of a row with `messages`."""
    messages = checked_messages(row["messages"])
    roles = [label(message["role"]) for message in messages]
    start = 1 if roles and roles[0] == "system" else 0
    check_roles(roles, start)
    turn = text_of(messages[start].get("content"), f"message {start + 1} (user)").rstrip()
    response = text_of(messages[start + 1].get("content"), f"message {start + 2} (assistant)")
    context, _, instruction = turn.rpartition(BLANK_LINE)
    return context, instruction, response, roles.count("assistant")


def checked_messages(messages: Any) -> list[Row]:
    """The messages, each of which has a role."""
    if not isinstance(messages, list | None):
        raise NotASample("malformed_messages", f"`messages` holds {type(messages).__name__}, not a list")
    for number, message in enumerate(messages or [], start=1):
        if not isinstance(message, Mapping):
            raise NotASample("malformed_messages", f"message {number} is no object but {type(message).__name__}")
        if message.get("role") in (None, "", b""):
            raise NotASample("missing_role", f"message {number} has no role")
    return messages or []


def check_roles(roles: list[str], start: int) -> None:
    """From `start` on, users and assistants take turns, a user first, and at least one assistant answers."""
    for number, role in enumerate(roles[start:], start=start + 1):
        if role not in ("user", "assistant"):
            raise NotASample("unknown_role", f"message {number} has the role {quoted(role)}")
    for role in ("user", "assistant"):
        if role not in roles:
            raise NotASample(f"no_{role}_turn", f"the roles are: {quoted(', '.join(roles)) if roles else 'none'}")
    if roles[start] != "user":
        raise NotASample("roles_do_not_alternate", f"message {start + 1} is the assistant's, before any user's")
    for number, (role, following) in enumerate(pairwise(roles[start:]), start=start + 1):
        if role == following:
            raise NotASample("roles_do_not_alternate", f"messages {number} and {number + 1} are both the {role}'s")


def text_of(value: Any, place: str) -> str:
    """A text, None as the empty one."""
    if not isinstance(value, str | bytes | None):
        raise NotASample("content_not_text", f"{place} holds {type(value).__name__}, not text")
    try:
        return decoded(value)
    except UnicodeError:
        raise NotASample("not_utf8", f"{place} is not UTF-8") from None


def quoted(text: str) -> str:
    """A text in quotes, shortened."""
    return repr(text if len(text) <= LONGEST_QUOTED_CHARS else text[:LONGEST_QUOTED_CHARS] + "…")


def listed(names: Sequence[str] | Row) -> str:
    """Names for an error."""
    return ", ".join(map(repr, names)) if names else "none"
