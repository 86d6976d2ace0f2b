"""Conversations of instruction pools: the turns of a row's messages, and the choice of the exchange that is scored.

A row's messages are a list of objects with a role and a content, in LongAlign's form ({role, content}) or in ShareGPT's
({from, value}). A content is a text or a list of parts {"type": "text", "text": …}, whose texts are joined without
anything in between. The whole conversation is kept as stored; `scored_exchange` chooses the texts that are scored:

    system  user 1: context, blank line, instruction   assistant 1   user 2   assistant 2
    first   └─ context ───────────────┘ └ instruction ┘ └ response ┘
    last    └─ context ────────────────────────────────────────────┘ └instr.┘ └ response ┘
    all     └─ context ───────────────┘ └ instruction ┘ └ response ┘ └─ later exchanges ─┘

- The instruction of a user message is the text after its last blank line ("\\n\\n"; white space at the message's end
  does not count), or the whole message if it has none; the text before it is context.
- System prompts are context, before everything else: the response is conditioned on them, and some pools put the long
  text there.
- `last`: the context is everything before the last exchange, messages joined by a blank line, then the context of the
  last user message.
- `all`: later user messages are instructions as a whole, and every response is scored.
A last user message without an answer is kept and not scored. With one exchange and no system prompt the three choices
are the same.

Reasons for which conversations are set aside:
| reason | content of the row |
|---|---|
| not_utf8 | text that is not UTF-8, or a lone surrogate |
| not_json, not_an_object | a line that is not JSON, or is another JSON value than an object |
| line_too_long, text_too_long | more bytes or characters than el_resources.sources.row_limits allows |
| malformed_messages | messages that are not a list, or one that is not an object |
| missing_role | a message without a role |
| unknown_role | a role with an unknown name, or a system message after the first user's |
| tool_turns | a message of a tool, or one that calls a tool: each model's template renders these differently |
| no_user_turn, no_assistant_turn | no message of that role |
| roles_do_not_alternate | an assistant before the first user, or two messages of one role in a row |
| content_not_text | a content that is a number, an image, … |
| empty_instruction, empty_response | a scored text with nothing but white space |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from el_resources.configuration.fields.gateau import ScoredExchange
from el_resources.sources.contracts import Turn
from el_resources.sources.file_formats import decoded, label
from el_resources.sources.instruction_columns import InstructionColumns

BLANK_LINE = "\n\n"
LONGEST_QUOTED_CHARS = 80
TOOL_KEYS = ("tool_calls", "function_call")

Message = Mapping[str, Any]


class NotASample(Exception):
    """Reason for which a row is set aside."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class ScoredTexts:
    """The texts of a conversation that are scored.

    Attributes:
        later: (instruction, response) of every later exchange that is scored with the first.
        n_turns: exchanges of a user and an assistant in the conversation.
    """

    context: str
    instruction: str
    response: str
    later: tuple[tuple[str, str], ...] = ()
    n_turns: int = 1


def read_turns(messages: Any, columns: InstructionColumns) -> list[Turn]:
    """Return the turns of a row's messages; raise NotASample unless users and assistants alternate in them."""
    if not isinstance(messages, list | None):
        raise NotASample("malformed_messages", f"`messages` holds {type(messages).__name__}, not a list")
    roles = [_role(number, message, columns) for number, message in enumerate(messages or [], start=1)]
    kinds = _kinds(roles, columns)
    refuse_tools(kinds, messages or [])
    check_order(kinds, roles)
    found = []
    for number, (kind, role, message) in enumerate(zip(kinds, roles, messages or [], strict=True), start=1):
        content = next((message[key] for key in columns.content if message.get(key) is not None), None)
        found.append(Turn(kind=kind, role=role, text=content_text(content, f"message {number} ({kind})")))
    return found


def scored_texts(turns: Sequence[Turn], exchange: ScoredExchange) -> ScoredTexts:
    """Return the texts of checked turns that the setting `scored_exchange` asks for.

    Raises:
        NotASample: a scored instruction or response is empty.
    """
    start = next(number for number, turn in enumerate(turns) if turn.kind == "user")
    n_turns = sum(turn.kind == "assistant" for turn in turns)
    # Users and assistants alternate from `start` on, so exchange k begins at turn start + 2 k.
    asked = [turns[start + 2 * k].text for k in range(n_turns)]
    answered = [turns[start + 2 * k + 1].text for k in range(n_turns)]
    scored = n_turns - 1 if exchange == "last" else 0
    own_context, instruction = split_turn(asked[scored])
    before = [turn.text for turn in turns[: start + 2 * scored]]
    later = tuple(zip(asked[1:], answered[1:], strict=True)) if exchange == "all" else ()
    texts = ScoredTexts(
        context=BLANK_LINE.join(text for text in (*before, own_context) if text),
        instruction=instruction,
        response=answered[scored],
        later=later,
        n_turns=n_turns,
    )
    refuse_empty(texts)
    return texts


def split_turn(text: str) -> tuple[str, str]:
    """Split a user message into context and instruction."""
    context, _, instruction = text.rstrip().rpartition(BLANK_LINE)
    return context, instruction


def refuse_empty(texts: ScoredTexts) -> None:
    """Raise NotASample if an instruction or a response holds no text."""
    exchanges = [(texts.instruction, texts.response), *texts.later]
    for number, exchange in enumerate(exchanges, start=1):
        where = f" of exchange {number}" if len(exchanges) > 1 else ""
        for name, text in zip(("instruction", "response"), exchange, strict=True):
            if not text.strip():
                raise NotASample(f"empty_{name}", f"the {name}{where} holds no text")


def content_text(value: Any, place: str) -> str:
    """Return the text of a content: the content itself, or its text parts joined; None is the empty text."""
    if not isinstance(value, list):
        return text_of(value, place)
    return "".join(_part_text(part, f"part {number} of {place}") for number, part in enumerate(value, start=1))


def text_of(value: Any, place: str) -> str:
    """Return a text decoded, None as the empty text; raise NotASample if it is not text or not UTF-8."""
    if not isinstance(value, str | bytes | None):
        raise NotASample("content_not_text", f"{place} holds {type(value).__name__}, not text")
    try:
        return decoded(value)
    except UnicodeError:
        raise NotASample("not_utf8", f"{place} is not UTF-8") from None


def refuse_tools(kinds: Sequence[str], messages: Sequence[Message]) -> None:
    """Raise NotASample for a conversation with tools."""
    for number, (kind, message) in enumerate(zip(kinds, messages, strict=True), start=1):
        if kind == "tool":
            raise NotASample("tool_turns", f"message {number} is a tool's")
        if any(message.get(key) for key in TOOL_KEYS):
            raise NotASample("tool_turns", f"message {number} ({kind}) calls a tool")


def check_order(kinds: Sequence[str], roles: Sequence[str]) -> None:
    """Raise NotASample unless users and assistants take turns after the system prompts, beginning with a user.

    At least one assistant must answer.
    """
    for kind in ("user", "assistant"):
        if kind not in kinds:
            raise NotASample(f"no_{kind}_turn", f"the roles are: {quoted(', '.join(roles)) if roles else 'none'}")
    start = next(number for number, kind in enumerate(kinds) if kind != "system")
    if kinds[start] != "user":
        raise NotASample("roles_do_not_alternate", f"message {start + 1} is the assistant's, before any user's")
    for number, (kind, following) in enumerate(pairwise(kinds[start:]), start=start + 1):
        if kind == following:
            raise NotASample("roles_do_not_alternate", f"messages {number} and {number + 1} are both the {kind}'s")


def quoted(text: str) -> str:
    """Return a text in quotes, shortened."""
    return repr(text if len(text) <= LONGEST_QUOTED_CHARS else text[:LONGEST_QUOTED_CHARS] + "…")


def _role(number: int, message: Any, columns: InstructionColumns) -> str:
    if not isinstance(message, Mapping):
        raise NotASample("malformed_messages", f"message {number} is {type(message).__name__}, not an object")
    role = next((message[key] for key in columns.role if message.get(key) not in (None, "", b"")), None)
    if role is None:
        raise NotASample("missing_role", f"message {number} has no role")
    return label(role)


def _kinds(roles: Sequence[str], columns: InstructionColumns) -> list[str]:
    """Return the kind of each role; raise NotASample for an unknown role, or a system message after other messages."""
    kinds: list[str] = []
    for number, role in enumerate(roles, start=1):
        kind = columns.kind_of(role)
        if kind is None or (kind == "system" and any(before != "system" for before in kinds)):
            raise NotASample("unknown_role", f"message {number} has the role {quoted(role)}")
        kinds.append(kind)
    return kinds


def _part_text(part: Any, place: str) -> str:
    if not isinstance(part, Mapping):
        raise NotASample("content_not_text", f"{place} holds {type(part).__name__}, not a part of text")
    if label(part.get("type")) != "text":
        raise NotASample("content_not_text", f"{place} has the type {quoted(label(part.get('type')))}, not 'text'")
    return text_of(part.get("text"), place)
