"""Settings by which an instruction pool is read.

They are the names of columns, keys and roles (EL_INSTRUCTION_COLUMNS), the columns that are kept (EL_KEEP_COLUMNS), and
the exchange that is scored (EL_SCORED_EXCHANGE).

Example:
    columns = parse_columns("messages=dialog role=speaker content=text user=Human assistant=Bot")
    columns.messages             # ('dialog',)
    columns.kind_of("Human")     # 'user'
    columns.kind_of("human")     # None: the named roles replace the usual ones of their kind

Names are written `WHAT=NAME`, separated by spaces; a name with a space is quoted (`context="long text"`). A kind of
roles may have several names, separated by commas (`user=Human,Customer`).
"""

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from el_resources.configuration.fields.gateau import ScoredExchange

VARIABLE = "EL_INSTRUCTION_COLUMNS"
# Usual names of columns and keys, unless the setting names others; the first one that a row has is read.
COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations"),
    "role": ("role", "from"),
    "content": ("content", "value"),
    "context": ("context",),
    "instruction": ("instruction",),
    "response": ("response",),
    "id": ("id",),
    "license": ("license",),
}
ROLES: dict[str, tuple[str, ...]] = {
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard"),
    "system": ("system", "developer"),
    "tool": ("tool", "function", "observation", "function_call", "function_response", "tool_call", "tool_response"),
}
TEXTS = ("context", "instruction", "response")


@dataclass(frozen=True, kw_only=True)
class InstructionColumns:
    """Names of columns and keys, in the order in which they are tried, and the kind of each role."""

    messages: tuple[str, ...] = COLUMNS["messages"]
    role: tuple[str, ...] = COLUMNS["role"]
    content: tuple[str, ...] = COLUMNS["content"]
    texts: tuple[str, str, str] = TEXTS
    id: str = "id"
    license: str = "license"
    roles: Mapping[str, str]

    def kind_of(self, role: str) -> str | None:
        """Return `user`, `assistant`, `system` or `tool`; None for a role with an unknown name."""
        return self.roles.get(role)

    def described(self) -> str:
        """Return the two forms that a row may have, in words, for an error."""
        lists = " or ".join(f"`{name}`" for name in self.messages)
        keys = " or ".join(f"{{{role}, {content}}}" for role, content in zip(self.role, self.content, strict=False))
        context, instruction, response = (f"`{name}`" for name in self.texts)
        return (
            f"samples have {lists}, a list of {keys}, or the texts {context}, {instruction} and {response}; "
            f"name others with {VARIABLE} (instruction_columns)"
        )


def parse_columns(text: str) -> InstructionColumns:
    """Return the names from the setting, completed by the usual ones.

    Raises:
        ValueError: a part is not `WHAT=NAME`, or WHAT is unknown or given twice, or a role has two kinds.

    Example:
        >>> parse_columns("messages=dialog role=speaker").messages
        ('dialog',)
    """
    given = _pairs(text)
    names = {what: (given[what],) if what in given else usual for what, usual in COLUMNS.items()}
    context, instruction, response = (names[what][0] for what in TEXTS)
    if len({context, instruction, response}) < len(TEXTS):
        raise ValueError(f"{text!r} gives two of {', '.join(TEXTS)} the same column; name three different ones")
    return InstructionColumns(
        messages=names["messages"],
        role=names["role"],
        content=names["content"],
        texts=(context, instruction, response),
        id=names["id"][0],
        license=names["license"][0],
        roles=_roles(given),
    )


@dataclass(frozen=True, kw_only=True)
class PoolReading:
    """Settings by which rows become samples.

    Attributes:
        exchange: the exchange that is scored.
        columns: names of columns, keys and roles.
        keep: further columns that are written with the sample.
    """

    exchange: ScoredExchange = "first"
    columns: InstructionColumns = field(default_factory=lambda: parse_columns(""))
    keep: tuple[str, ...] = ()

    @property
    def names_columns(self) -> bool:
        """True if a setting names a file's columns, keys or roles."""
        return bool(self.keep) or self.columns != parse_columns("")

    def fingerprint(self) -> tuple[object, ...]:
        return (self.exchange, repr(self.columns))


def parse_names(text: str) -> tuple[str, ...]:
    """Return the column names of a comma-separated list; a name with a comma is written in double quotes.

    Raises:
        ValueError: a name is empty or given twice.

    Example:
        >>> parse_names('topic, "source, year"')
        ('topic', 'source, year')
    """
    if not text.strip():
        return ()
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]
    if not all(names):
        raise ValueError(f"{text!r} has an empty name; write column names separated by single commas")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{text!r} names {twice[0]!r} twice; name each column once")
    return tuple(names)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'NAME'?` if one of the known names is near, else an empty text.

    Example:
        >>> nearest("mesages", ["messages", "role"])
        "; did you mean 'messages'?"
    """
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _pairs(text: str) -> dict[str, str]:
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} cannot be read ({error}); close the quotes") from None
    known, found = [*COLUMNS, *ROLES], dict[str, str]()
    for part in parts:
        what, equals, name = part.partition("=")
        if not equals or not name:
            raise ValueError(f"{part!r} is not WHAT=NAME, as in messages=dialog; WHAT is one of {', '.join(known)}")
        if what not in known:
            raise ValueError(f"{what!r} in {part!r} is unknown{nearest(what, known)} (one of {', '.join(known)})")
        if what in found:
            raise ValueError(f"{what!r} is given twice in {text!r}; several names of a role are written user=A,B")
        found[what] = name
    return found


def _roles(given: Mapping[str, str]) -> dict[str, str]:
    """Return the kind of each role name.

    Names from the setting replace the usual names of their kind, and a usual name may be given to another kind.
    """
    usual = {role: kind for kind, roles in ROLES.items() if kind not in given for role in roles}
    named: dict[str, str] = {}
    for kind in ROLES:
        for role in parse_names(given.get(kind, "")):
            if role in named:
                raise ValueError(f"role {role!r} is named as {named[role]} and as {kind}; name it once")
            named[role] = kind
    return usual | named
