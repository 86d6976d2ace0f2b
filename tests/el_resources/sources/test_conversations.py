"""Rows that are no samples: each is set aside for a named reason, and the other rows of its file go on."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.pools import messages, only_shard, read_rows, sample, scored, set_aside
from tests.support.written_files import Row, every_format

USER, ASSISTANT = ("user", "One.\n\nWhich?"), ("assistant", "Both.")


class TestSetAside:
    @every_format
    @pytest.mark.parametrize(
        ("turns", "reason", "detail"),
        [
            ([], "no_user_turn", "the roles are: none"),
            ([("system", "Be brief."), ASSISTANT], "no_user_turn", "the roles are: 'system, assistant'"),
            ([USER], "no_assistant_turn", "the roles are: 'user'"),
            ([USER, (None, "Both.")], "missing_role", "message 2 has no role"),
            ([USER, ("", "Both.")], "missing_role", "message 2 has no role"),
            ([("Human", "Which?"), ASSISTANT], "unknown_role", "message 1 has the role 'Human'"),
            ([USER, ("tool", "7"), ASSISTANT], "tool_turns", "message 2 is a tool's"),
            ([USER, ("observation", None), ASSISTANT], "tool_turns", "message 2 is a tool's"),
            ([USER, ("system", "Now."), ASSISTANT], "unknown_role", "message 2 has the role 'system'"),
            ([USER, ("r" * 99, "x")], "unknown_role", f"message 2 has the role '{'r' * 80}…'"),
            (
                [ASSISTANT, USER, ASSISTANT],
                "roles_do_not_alternate",
                "message 1 is the assistant's, before any user's",
            ),
            ([USER, USER, ASSISTANT], "roles_do_not_alternate", "messages 1 and 2 are both the user's"),
            (
                [("system", ""), USER, ASSISTANT, ASSISTANT],
                "roles_do_not_alternate",
                "messages 3 and 4 are both the assistant's",
            ),
            ([("user", " \n"), ASSISTANT], "empty_instruction", "the instruction holds no text"),
            ([("user", None), ASSISTANT], "empty_instruction", "the instruction holds no text"),
            ([USER, ("assistant", " \t\n")], "empty_response", "the response holds no text"),
            ([USER, ("assistant", None)], "empty_response", "the response holds no text"),
        ],
    )
    def test_messages(
        self, tmp_path: Path, scheme: str, turns: list[tuple[Any, Any]], reason: str, detail: str
    ) -> None:
        # A whole sample with it gives Parquet the column's type.
        rows = [messages(*turns, id="odd"), messages(USER, ASSISTANT, id="whole")]
        assert read_rows(tmp_path, scheme, rows) == [
            set_aside(reason, detail, "odd"),
            sample("One.", "Which?", "Both.", source_id="whole"),
        ]

    @every_format
    @pytest.mark.parametrize("part", ["instruction", "response"])
    @pytest.mark.parametrize("text", ["", " \n", None])
    def test_an_empty_part(self, tmp_path: Path, scheme: str, part: str, text: str | None) -> None:
        row = {"context": "c", "instruction": "i", "response": "r"} | {part: text}
        assert read_rows(tmp_path, scheme, [row]) == [set_aside(f"empty_{part}", f"the {part} holds no text")]

    @pytest.mark.parametrize(
        ("row", "reason", "detail"),
        [
            ({"messages": "hello"}, "malformed_messages", "`messages` holds str, not a list"),
            ({"messages": ["hello"]}, "malformed_messages", "message 1 is str, not an object"),
            ({"messages": None}, "no_user_turn", "the roles are: none"),
            ({"messages": [{"content": "x"}]}, "missing_role", "message 1 has no role"),
            (messages((1, "x")), "unknown_role", "message 1 has the role '1'"),
            (
                messages(("user", [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": "y"}]), ASSISTANT),
                "content_not_text",
                "part 2 of message 1 (user) has the type 'image_url', not 'text'",
            ),
            (
                messages(("user", ["x"]), ASSISTANT),
                "content_not_text",
                "part 1 of message 1 (user) holds str, not a part of text",
            ),
            (messages(("system", 1), USER, ASSISTANT), "content_not_text", "message 1 (system) holds int, not text"),
            (
                messages(USER, ASSISTANT, ("user", {"text": "x"})),
                "content_not_text",
                "message 3 (user) holds dict, not text",
            ),
            (
                {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
                "tool_turns",
                "message 2 (assistant) calls a tool",
            ),
            (messages(USER, ("assistant", 1)), "content_not_text", "message 2 (assistant) holds int, not text"),
            (
                {"context": {}, "instruction": "i", "response": "r"},
                "content_not_text",
                "the context holds dict, not text",
            ),
            (messages(USER, ("assistant", "\ud800")), "not_utf8", "message 2 (assistant) is not UTF-8"),
            ({"context": "\ud800", "instruction": "i", "response": "r"}, "not_utf8", "the context is not UTF-8"),
        ],
    )
    def test_what_only_json_can_hold(self, tmp_path: Path, row: Row, reason: str, detail: str) -> None:
        assert read_rows(tmp_path, "jsonl", [row]) == [set_aside(reason, detail)]

    def test_a_line_that_is_not_utf8(self, tmp_path: Path) -> None:
        good = b'{"context": "c", "instruction": "i", "response": "r"}\n'
        (tmp_path / "a.jsonl").write_bytes(good + good.replace(b"c", b"\xe9") + good)
        assert scored(only_shard(f"jsonl:{tmp_path}")) == [
            sample("c", "i", "r"),
            set_aside("not_utf8", "line 2 is not UTF-8"),
            sample("c", "i", "r"),
        ]

    def test_parquet_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        struct = pa.struct({"role": pa.string(), "content": pa.binary()})
        row = [{"role": "user", "content": b"caf\xe9"}, {"role": "assistant", "content": b"Both."}]
        pq.write_table(pa.table({"messages": pa.array([row], pa.list_(struct))}), tmp_path / "a.parquet")
        assert only_shard(f"parquet:{tmp_path}") == [set_aside("not_utf8", "message 1 (user) is not UTF-8")]

    @pytest.mark.parametrize(
        ("line", "reason", "detail"),
        [
            (b'{"messages"', "not_json", "line 2 is not JSON (Expecting ':' delimiter at character 12)"),
            (b"[1]", "not_an_object", "line 2 is a JSON list, not an object"),
        ],
    )
    def test_a_line_that_is_no_object(self, tmp_path: Path, line: bytes, reason: str, detail: str) -> None:
        good = b'{"context": "c", "instruction": "i", "response": "r"}\n'
        (tmp_path / "a.jsonl").write_bytes(good + line + b"\n" + good)
        _, bad, _ = only_shard(f"jsonl:{tmp_path}")
        assert bad == set_aside(reason, detail)

    def test_a_line_of_neither_schema_does_not_drop_its_file(self, tmp_path: Path) -> None:
        rows = [{"prompt": "a"}, {"context": "c", "instruction": "i", "response": "r"}]
        first, second = read_rows(tmp_path, "jsonl", rows)
        assert (first.set_aside_reason, second) == ("other_columns", sample("c", "i", "r"))
        assert first.detail.startswith(
            "line 1 has 'prompt'; samples have `messages` or `conversations`, a list of {role"
        )
