"""Conversations of files: kept whole and unchanged, scored as is asked for, under the names that the file has."""

import datetime
import decimal
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_resources.sources.contracts import CorruptShardError, SourceSample
from el_resources.sources.instruction_columns import PoolReading, parse_columns
from el_resources.sources.instruction_files import FileInstructions, as_json
from el_resources.sources.opening import open_instructions
from tests.support.pools import no_tokenizer
from tests.support.written_files import WRITERS, Row, every_format


def opened(uri: str, **reading: Any) -> FileInstructions:
    source = open_instructions(
        uri, tokenizer=no_tokenizer, samples_per_kind=1, windows=lambda: (1, 2), reading=PoolReading(**reading)
    )
    assert isinstance(source, FileInstructions)
    return source


def read_rows(folder: Path, scheme: str, rows: list[Row], **reading: Any) -> list[SourceSample]:
    WRITERS[scheme](folder / f"a.{scheme}", rows)
    source = opened(f"{scheme}:{folder}", **reading)
    return list(source.samples(*source.shards()))


def turns(sample: SourceSample) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in sample.turns]


def chat(*turns: tuple[str, Any], **others: Any) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **others}


LONG = chat(
    ("system", "Be brief."),
    ("user", "One.\n\nTwo.\n\nWhich?\n"),
    ("assistant", "Both."),
    ("user", "A new text.\n\nWhy?"),
    ("assistant", "So."),
    ("user", "Sure?"),
    ("assistant", "Yes."),
    ("user", "Bye."),
)


class TestScoredExchange:
    @every_format
    @pytest.mark.parametrize(
        ("exchange", "context", "instruction", "response", "later"),
        [
            ("first", "Be brief.\n\nOne.\n\nTwo.", "Which?", "Both.", ()),
            (
                "last",
                "Be brief.\n\nOne.\n\nTwo.\n\nWhich?\n\n\nBoth.\n\nA new text.\n\nWhy?\n\nSo.",
                "Sure?",
                "Yes.",
                (),
            ),
            (
                "all",
                "Be brief.\n\nOne.\n\nTwo.",
                "Which?",
                "Both.",
                (("A new text.\n\nWhy?", "So."), ("Sure?", "Yes.")),
            ),
        ],
    )
    def test_by_hand(
        self, tmp_path: Path, scheme: str, exchange: str, context: str, instruction: str, response: str, later: Any
    ) -> None:
        (read,) = read_rows(tmp_path, scheme, [LONG], exchange=exchange)
        assert (read.context, read.instruction, read.response, read.later) == (context, instruction, response, later)
        assert read.n_turns == 3
        assert turns(read) == [(one["role"], one["content"]) for one in LONG["messages"]]

    def test_the_last_user_message_has_a_context_of_its_own(self, tmp_path: Path) -> None:
        row = {"messages": LONG["messages"][:5]}
        (read,) = read_rows(tmp_path, "jsonl", [row], exchange="last")
        assert read.context.endswith("Both.\n\nA new text.")
        assert (read.instruction, read.response) == ("Why?", "So.")

    @settings(deadline=None)
    @given(texts=st.lists(st.text("ab \n", max_size=9).filter(str.strip), min_size=2, max_size=2))
    def test_one_exchange_is_the_same_whichever_is_asked_for(self, texts: list[str]) -> None:
        row = chat(("user", texts[0]), ("assistant", texts[1]))
        with tempfile.TemporaryDirectory() as folder:
            found = [read_rows(Path(folder), "jsonl", [row], exchange=name) for name in ("first", "last", "all")]
        assert found[0] == found[1] == found[2]

    @pytest.mark.parametrize(
        ("exchange", "reasons"),
        [
            ("first", [None, None]),
            ("last", ["empty_response", "empty_instruction"]),
            ("all", ["empty_response", "empty_instruction"]),
        ],
    )
    def test_an_empty_text_counts_only_if_it_is_scored(
        self, tmp_path: Path, exchange: str, reasons: list[str | None]
    ) -> None:
        first = ("user", "Which?"), ("assistant", "Both.")
        rows = [chat(*first, ("user", "Why?"), ("assistant", " ")), chat(*first, ("user", ""), ("assistant", "So."))]
        read = read_rows(tmp_path, "jsonl", rows, exchange=exchange)
        assert [one.set_aside_reason for one in read] == reasons
        if exchange == "all":
            assert read[0].detail == "the response of exchange 2 holds no text"


class TestShapes:
    @every_format
    def test_sharegpt(self, tmp_path: Path, scheme: str) -> None:
        talk = [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "One.\n\nWhich?"},
            {"from": "gpt", "value": "Both."},
        ]
        (read,) = read_rows(tmp_path, scheme, [{"conversations": talk, "id": "g"}])
        assert (read.context, read.instruction, read.response) == ("S\n\nOne.", "Which?", "Both.")
        assert turns(read) == [("system", "S"), ("human", "One.\n\nWhich?"), ("gpt", "Both.")]
        assert json.loads(read.original) == talk

    @every_format
    @pytest.mark.parametrize("role", ["assistant", "gpt", "chatgpt", "bing", "bard"])
    def test_sharegpts_names_of_the_assistant(self, tmp_path: Path, scheme: str, role: str) -> None:
        rows = [{"conversations": [{"from": "human", "value": "I"}, {"from": role, "value": "R"}]}]
        assert read_rows(tmp_path, scheme, rows)[0].response == "R"

    @every_format
    def test_parts_of_text_are_put_together(self, tmp_path: Path, scheme: str) -> None:
        parts = [{"type": "text", "text": "One.\n\n"}, {"type": "text", "text": "Which?"}]
        rows = [
            {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": parts[1:]}]},
            {
                "messages": [
                    {"role": "user", "content": [{**parts[0], "type": "image"}]},
                    {"role": "assistant", "content": parts},
                ]
            },
        ]
        whole, image = read_rows(tmp_path, scheme, rows)
        assert (whole.context, whole.instruction, whole.response) == ("One.", "Which?", "Which?")
        assert json.loads(whole.original) == rows[0]["messages"]
        assert (image.set_aside_reason, image.detail) == (
            "content_not_text",
            "part 1 of message 1 (user) has the type 'image', not 'text'",
        )

    def test_both_columns_in_one_parquet_file(self, tmp_path: Path) -> None:
        talk = [{"from": "human", "value": "I"}, {"from": "gpt", "value": "R"}]
        texts = {"context": "c", "instruction": "i", "response": "r"}
        rows = [
            {"messages": None, "conversations": talk, **dict.fromkeys(texts)},
            {"messages": chat(("user", "a"), ("assistant", "b"))["messages"], "conversations": None, **texts},
            {"messages": None, "conversations": None, **texts},
        ]
        assert [one.response for one in read_rows(tmp_path, "parquet", rows)] == ["R", "b", "r"]


class TestNames:
    @every_format
    def test_a_conversation_under_other_names(self, tmp_path: Path, scheme: str) -> None:
        columns = parse_columns(
            "messages=dialog role=speaker content=text user=Human assistant=Bot id=key license=terms"
        )
        talk = [{"speaker": "Human", "text": "One.\n\nWhich?"}, {"speaker": "Bot", "text": "Both."}]
        (read,) = read_rows(tmp_path, scheme, [{"dialog": talk, "key": "k", "terms": "CC0"}], columns=columns)
        assert (read.context, read.instruction, read.response) == ("One.", "Which?", "Both.")
        assert (read.source_id, read.license, json.loads(read.original)) == ("k", "CC0", talk)

    @every_format
    def test_three_texts_under_other_names(self, tmp_path: Path, scheme: str) -> None:
        columns = parse_columns("context=passage instruction=question response=answer")
        row = {"passage": None, "question": "Which?", "answer": "Both."}
        typed = {**row, "passage": "c"}
        read, _ = read_rows(tmp_path, scheme, [row, typed], columns=columns)
        assert (read.context, read.instruction, read.response) == ("", "Which?", "Both.")
        assert json.loads(read.original) == row

    @every_format
    def test_a_file_without_the_named_columns_says_which_names_were_looked_for(
        self, tmp_path: Path, scheme: str
    ) -> None:
        columns = parse_columns("messages=dialog context=passage")
        with pytest.raises(CorruptShardError, match=r"have `dialog`, a list .* `passage`, .*EL_INSTRUCTION_COLUMNS"):
            read_rows(tmp_path, scheme, [chat(("user", "a"), ("assistant", "b"))], columns=columns)

    def test_names_and_exchange_are_part_of_the_fingerprint(self, tmp_path: Path) -> None:
        WRITERS["jsonl"](tmp_path / "a.jsonl", [LONG])
        readings: list[dict[str, Any]] = [
            {},
            {"exchange": "all"},
            {"columns": parse_columns("user=Human")},
        ]
        found = {opened(f"jsonl:{tmp_path}", **reading).shard_fingerprint("a.jsonl") for reading in readings}
        assert len(found) == len(readings)
        kept = opened(f"jsonl:{tmp_path}", keep=("a",)).shard_fingerprint("a.jsonl")
        assert kept in found, "columns that go out beside the sample are not read by any model"

    def test_the_embedded_pool_says_that_it_has_no_columns(self) -> None:
        with pytest.warns(UserWarning, match="are not used: python-docs-questions: has no columns"):
            open_instructions(
                "python-docs-questions:",
                tokenizer=no_tokenizer,
                samples_per_kind=1,
                windows=lambda: (1, 2),
                reading=PoolReading(keep=("a",)),
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            open_instructions(
                "python-docs-questions:",
                tokenizer=no_tokenizer,
                samples_per_kind=1,
                windows=lambda: (1, 2),
                reading=PoolReading(exchange="all"),
            )


class TestKeptColumns:
    @every_format
    def test_columns_go_out_with_the_sample(self, tmp_path: Path, scheme: str) -> None:
        rows = [{**LONG, "length": 7, "tags": ["a", None], "id": "x"}, {**LONG, "length": None, "tags": [], "id": "y"}]
        read = read_rows(tmp_path, scheme, rows, keep=("tags", "length", "id"))
        kept = [json.loads(one.kept_columns or "") for one in read]
        assert kept == [{name: row[name] for name in ("tags", "length", "id")} for row in rows]
        assert [one.source_id for one in read] == ["x", "y"]
        assert list(kept[0]) == ["tags", "length", "id"]

    @every_format
    def test_a_column_that_the_file_lacks_is_left_out(self, tmp_path: Path, scheme: str) -> None:
        """Another file of the pool may have it."""
        (read,) = read_rows(tmp_path, scheme, [{**LONG, "length": 7}], keep=("score", "length"))
        assert read.kept_columns == '{"length": 7}'

    @every_format
    def test_numbers_that_json_lacks_are_null(self, tmp_path: Path, scheme: str) -> None:
        (read,) = read_rows(tmp_path, scheme, [{**LONG, "score": float("nan")}], keep=("score",))
        assert read.kept_columns == '{"score": null}'

    def test_a_key_that_some_lines_lack_is_left_out_there(self, tmp_path: Path) -> None:
        read = read_rows(tmp_path, "jsonl", [{**LONG, "length": 7}, LONG], keep=("length",))
        assert [one.kept_columns for one in read] == ['{"length": 7}', "{}"]

    def test_values_of_arrow_become_those_of_json(self, tmp_path: Path) -> None:
        when = datetime.datetime(2026, 11, 25, 2, 47, tzinfo=datetime.UTC)
        row = {
            **LONG,
            "when": when,
            "day": when.date(),
            "price": decimal.Decimal("1.50"),
            "raw": b"caf\xc3\xa9",
            "x": b"\xff",
        }
        (read,) = read_rows(tmp_path, "parquet", [row], keep=("when", "day", "price", "raw", "x"))
        assert json.loads(read.kept_columns or "") == {
            "when": "2026-11-25T02:47:00+00:00",
            "day": "2026-11-25",
            "price": "1.50",
            "raw": "café",
            "x": "/w==",
        }

    def test_a_text_of_arrow_that_is_not_utf8_sets_its_row_aside(self, tmp_path: Path) -> None:
        bad = pa.array([b"fine", b"\xff"]).view(pa.string())
        talk = pa.array([LONG["messages"]] * 2)
        pq.write_table(pa.table({"messages": talk, "note": bad}), tmp_path / "a.parquet")
        first, second = opened(f"parquet:{tmp_path}", keep=("note",)).samples("a.parquet")
        assert first.kept_columns == '{"note": "fine"}'
        assert (second.set_aside_reason, second.detail) == ("not_utf8", "note holds text that is not UTF-8")

    def test_a_column_name_that_two_columns_have_is_refused(self, tmp_path: Path) -> None:
        talk = pa.array([LONG["messages"]])
        pq.write_table(pa.table([talk, talk], names=["messages", "messages"]), tmp_path / "a.parquet")
        with pytest.raises(CorruptShardError, match="more than one column 'messages'"):
            list(opened(f"parquet:{tmp_path}").samples("a.parquet"))


# Keys and values that JSON can hold: no NaN and no infinities.
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
texts = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)


class TestOriginal:
    @settings(deadline=None)
    @given(extra=st.dictionaries(st.text(min_size=1), values, max_size=3), question=texts, answer=texts)
    def test_a_line_of_json_comes_back_with_its_keys_in_their_order(
        self, extra: dict[str, Any], question: str, answer: str
    ) -> None:
        taken = ("role", "content", "from", "value", "tool_calls", "function_call")
        more = {key: value for key, value in extra.items() if key not in taken}
        talk = [{**more, "role": "user", "content": question}, {"content": answer, **more, "role": "assistant"}]
        with tempfile.TemporaryDirectory() as folder:
            (read,) = read_rows(Path(folder), "jsonl", [{"messages": talk}])
        back = json.loads(read.original)
        assert json.dumps(back) == json.dumps(talk), "dumps keeps the order of keys, and tells 1 from 1.0"

    def test_arrow_keeps_every_key_of_a_message(self, tmp_path: Path) -> None:
        talk = [
            {"content": "I", "weight": 2**53 + 1, "role": "user", "meta": {"b": [1.5, None], "a": "ü"}},
            {"content": "R", "weight": None, "role": "assistant", "meta": None},
        ]
        (read,) = read_rows(tmp_path, "parquet", [{"messages": talk}])
        assert json.dumps(json.loads(read.original)) == json.dumps(talk)

    def test_a_lone_surrogate_stays_an_escape(self) -> None:
        assert as_json({"ü": "ü"}) == '{"ü": "ü"}'
        assert as_json({"ü": "\ud800"}) == '{"\\u00fc": "\\ud800"}'
