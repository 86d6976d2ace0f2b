"""The settings that name columns, keys and roles of instruction files: read strictly, with errors that help."""

import pytest

from el_resources.settings import Settings
from el_resources.sources.instruction_columns import parse_columns, parse_names


def test_the_usual_names_are_those_of_longalign_and_sharegpt() -> None:
    columns = parse_columns("")
    assert (columns.messages, columns.role, columns.content) == (
        ("messages", "conversations"),
        ("role", "from"),
        ("content", "value"),
    )
    assert columns.texts == ("context", "instruction", "response")
    kinds = {role: columns.kind_of(role) for role in ("human", "gpt", "developer", "function", "narrator")}
    assert kinds == {"human": "user", "gpt": "assistant", "developer": "system", "function": "tool", "narrator": None}


def test_names_that_are_given_replace_the_usual_ones() -> None:
    columns = parse_columns("messages='the dialog' role=speaker content=text user=Human,Asker context=passage id=key")
    assert (columns.messages, columns.role, columns.content) == (("the dialog",), ("speaker",), ("text",))
    assert (columns.texts, columns.id, columns.license) == (("passage", "instruction", "response"), "key", "license")
    assert [columns.kind_of(role) for role in ("Human", "Asker", "human", "gpt")] == ["user", "user", None, "assistant"]


def test_a_usual_name_may_be_given_to_another_kind() -> None:
    columns = parse_columns("user=assistant assistant=user")
    assert (columns.kind_of("assistant"), columns.kind_of("user")) == ("user", "assistant")
    assert parse_columns("user=gpt").kind_of("gpt") == "user"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mesages=dialog",
            r"'mesages' in 'mesages=dialog' is unknown; did you mean 'messages'\? \(one of messages, role",
        ),
        ("zzz=dialog", r"'zzz' in 'zzz=dialog' is unknown \(one of"),
        ("dialog", r"'dialog' is not WHAT=NAME, as in messages=dialog"),
        ("messages=", r"'messages=' is not WHAT=NAME"),
        ("user=a user=b", r"'user' is given twice .*; several names of a role are written user=A,B"),
        ("user=a assistant=a", r"role 'a' is named as user and as assistant; name it once"),
        ("user=a,,b", r"'a,,b' has an empty name"),
        ("context='passage", r"cannot be read \(No closing quotation\); close the quotes"),
        ("context=text response=text", r"gives two of context, instruction, response the same column; name three"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_settings(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"EL_INSTRUCTION_COLUMNS\) = .*{message}"):
        Settings.load({"EL_INSTRUCTION_COLUMNS": text})


def test_column_names_are_a_list_with_commas() -> None:
    assert parse_names("") == parse_names("  ") == ()
    assert parse_names(" length, tags,the id ") == ("length", "tags", "the id")
    assert parse_names('a, "b,c"') == ("a", "b,c")
    for text, message in (("a,,b", "has an empty name"), ("a,a", "names 'a' twice")):
        with pytest.raises(ValueError, match=rf"EL_KEEP_COLUMNS\) = .*{message}"):
            Settings.load({"EL_KEEP_COLUMNS": text})
