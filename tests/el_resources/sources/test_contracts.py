import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_resources.sources.contracts import CorruptShardError, SourceSample
from el_resources.sources.file_formats import BATCH_ROWS
from tests.support.pools import messages, only_shard, opened, read_rows, sample, scored
from tests.support.written_files import WRITERS, Row, every_format


class TestOpening:
    @pytest.mark.parametrize("uri", ["ftp:x", "data/*.jsonl", "", "python-docs-questions"])
    def test_an_unknown_scheme_lists_the_known_ones(self, uri: str) -> None:
        with pytest.raises(ValueError, match="python-docs-questions:, parquet:, jsonl:") as raised:
            opened(uri)
        assert repr(uri) in str(raised.value)

    def test_the_embedded_pool_takes_no_location(self) -> None:
        with pytest.raises(ValueError, match="nothing after the colon"):
            opened("python-docs-questions:json")

    def test_opening_reads_nothing(self, tmp_path: Path) -> None:
        assert opened(f"jsonl:{tmp_path}/absent").uri == f"jsonl:{tmp_path}/absent"

    @every_format
    def test_a_shard_is_a_file_and_a_name_is_never_a_path(self, tmp_path: Path, scheme: str) -> None:
        for name in ("b", "a"):
            WRITERS[scheme](tmp_path / f"{name}.{scheme}", [{"context": "c", "instruction": "i", "response": name}])
        source = opened(f"{scheme}:{tmp_path}")
        assert source.shards() == [f"a.{scheme}", f"b.{scheme}"]
        assert source.shard_fingerprint(f"a.{scheme}") != source.shard_fingerprint(f"b.{scheme}")
        with pytest.raises(ValueError, match=rf"has no shard '\.\./a'; it has 2: a\.{scheme}, b\.{scheme}"):
            source.samples("../a")


class TestSchemas:
    @every_format
    def test_longalign(self, tmp_path: Path, scheme: str) -> None:
        row = messages(("user", "One.\n\nTwo.\n\nWhich?"), ("assistant", "Both."), length=7, id="long-1")
        assert read_rows(tmp_path, scheme, [row]) == [sample("One.\n\nTwo.", "Which?", "Both.", source_id="long-1")]

    @every_format
    def test_explicit(self, tmp_path: Path, scheme: str) -> None:
        row = {"id": 7, "response": "Both.\n", "context": " One.", "instruction": "Which?\n\nSay.", "source": "me"}
        assert read_rows(tmp_path, scheme, [row]) == [sample(" One.", "Which?\n\nSay.", "Both.\n", source_id="7")]

    @every_format
    @pytest.mark.parametrize(
        ("turn", "context", "instruction"),
        [
            ("Which?", "", "Which?"),
            ("One.\nWhich?", "", "One.\nWhich?"),
            ("\n\nWhich?", "", "Which?"),
            ("One.\n\n\nWhich?", "One.\n", "Which?"),
            ("One.\n\n\n\nWhich?\nSay.", "One.\n\n", "Which?\nSay."),
            ("One.\n\nWhich?\n\n \n", "One.", "Which?"),
            (" One. \n\n Which?", " One. ", " Which?"),
        ],
    )
    def test_the_instruction_follows_the_last_blank_line(
        self, tmp_path: Path, scheme: str, turn: str, context: str, instruction: str
    ) -> None:
        (read,) = read_rows(tmp_path, scheme, [messages(("user", turn), ("assistant", "Both."))])
        assert read == sample(context, instruction, "Both.")

    @every_format
    def test_of_several_exchanges_the_first_is_read_and_all_are_counted(self, tmp_path: Path, scheme: str) -> None:
        first = ("user", "One.\n\nWhich?"), ("assistant", "Both.")
        rows = [
            messages(*first, ("user", "Why?"), ("assistant", "So.")),
            messages(*first, ("user", "Why?")),
            messages(*first, ("user", "Why?"), ("assistant", "")),
        ]
        assert read_rows(tmp_path, scheme, rows) == [
            sample("One.", "Which?", "Both.", n_turns=n_turns) for n_turns in (2, 1, 2)
        ]

    @every_format
    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_a_system_prompt_is_context_in_front(self, tmp_path: Path, scheme: str, role: str) -> None:
        rows = [
            messages((role, "Be brief.\n\nAlways."), ("user", turn), ("assistant", "B")) for turn in ("C\n\nI", "I")
        ]
        assert read_rows(tmp_path, scheme, rows) == [
            sample("Be brief.\n\nAlways.\n\nC", "I", "B"),
            sample("Be brief.\n\nAlways.", "I", "B"),
        ]

    @every_format
    def test_a_null_context_is_empty_and_ids_may_repeat(self, tmp_path: Path, scheme: str) -> None:
        row = {"context": None, "instruction": "Which?", "response": "Both.", "id": "x"}
        assert read_rows(tmp_path, scheme, [row, row]) == [sample("", "Which?", "Both.", source_id="x")] * 2

    @every_format
    def test_licences_are_read_of_what_is_set_aside_too(self, tmp_path: Path, scheme: str) -> None:
        texts = {"context": "A", "instruction": "B"}
        rows = [
            {**texts, "response": "C", "license": "CC0"},
            {**texts, "response": "C", "license": None},
            {**texts, "response": "", "license": "MIT"},
        ]
        assert [read.license for read in read_rows(tmp_path, scheme, rows)] == ["CC0", "", "MIT"]

    @every_format
    def test_a_row_with_both_schemas_is_read_as_messages(self, tmp_path: Path, scheme: str) -> None:
        row = messages(("user", "A\n\nB"), ("assistant", "C"), context="c", instruction="i", response="r")
        assert read_rows(tmp_path, scheme, [row]) == [sample("A", "B", "C")]

    def test_lines_of_both_schemas_may_mix(self, tmp_path: Path) -> None:
        rows = [messages(("user", "A\n\nB"), ("assistant", "C")), {"context": "D", "instruction": "E", "response": "F"}]
        assert read_rows(tmp_path, "jsonl", rows) == [sample("A", "B", "C"), sample("D", "E", "F")]

    def test_a_parquet_file_of_neither_schema_lists_its_columns(self, tmp_path: Path) -> None:
        schemas = r"'prompt', 'response'; .*`messages`.*`context`, `instruction`"
        with pytest.raises(CorruptShardError, match=schemas):
            read_rows(tmp_path, "parquet", [{"prompt": "a", "response": "b"}])

    @pytest.mark.parametrize(
        "column",
        [
            {"messages": "[]"},
            {"messages": ["user: hello"]},
            {"messages": [{"speaker": "human", "value": "hello"}]},
            {"messages": [{"role": "user", "content": ["hello"]}]},
            {"context": "a", "instruction": "b", "response": 1},
        ],
    )
    def test_a_parquet_column_of_another_type_is_named(self, tmp_path: Path, column: Row) -> None:
        with pytest.raises(ValueError, match=r"a\.parquet: column '(messages|response)' holds (string|list|int64)"):
            read_rows(tmp_path, "parquet", [column])

    def test_messages_of_every_parquet_layout(self, tmp_path: Path) -> None:
        struct = pa.struct(
            {"content": pa.large_string(), "role": pa.dictionary(pa.int8(), pa.string()), "n": pa.int8()}
        )
        row = [{"content": "grün\n\nWhich?", "role": "user", "n": 1}, {"content": "Both.", "role": "assistant"}]
        column = pa.array([row, None, row[:1]], pa.large_list(struct))
        pq.write_table(pa.table({"messages": column}), tmp_path / "a.parquet")
        assert [(read.context, read.set_aside_reason) for read in only_shard(f"parquet:{tmp_path}")] == [
            ("grün", None),
            ("", "no_user_turn"),
            ("", "no_assistant_turn"),
        ]

    def test_order_is_kept_over_batches(self, tmp_path: Path) -> None:
        numbers = [str(number) for number in range(2 * BATCH_ROWS + 3)]
        rows = [messages(*[("user", "A\n\nB"), ("assistant", number)] * 2) for number in numbers]
        assert [read.response for read in read_rows(tmp_path, "parquet", rows)] == numbers


class TestCorruptShards:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"[]\n", "it is a JSON array, not JSON lines"),
            (b'{"prompt": "a", "response": "b"}\n', "line 1 has 'prompt', 'response'; samples have `messages`"),
            (b"{}\n", "line 1 has none; samples have `messages`"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, content: bytes, reason: str) -> None:
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(CorruptShardError, match=reason) as raised:
            only_shard(f"jsonl:{tmp_path}")
        assert raised.value.path == str(tmp_path / "a.jsonl")

    @pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
    def test_a_broken_file_is_named(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(gzip.compress(b'{"messages": []}\n' * 999)[:-12])
        with pytest.raises(CorruptShardError, match=name):
            only_shard(f"{'jsonl' if 'jsonl' in name else 'parquet'}:{tmp_path}")


# What any text may be that UTF-8 can hold: NUL, line separators, astral planes.
texts = st.text(st.characters(exclude_categories=["Cs"]))
responses = texts.filter(str.strip)
# The last paragraph of a message, which is what its instruction can be.
instructions = texts.map(str.strip).filter(lambda text: text and "\n\n" not in text)
samples = st.lists(st.tuples(texts, instructions, responses, texts.filter(bool)), min_size=1, max_size=4)


class TestRoundTrip:
    @every_format
    @settings(deadline=None)  # files are written, on machines of any load
    @given(written=samples)
    def test_messages(self, scheme: str, written: list[tuple[str, str, str, str]]) -> None:
        rows = [
            messages(("user", f"{context}\n\n{instruction}"), ("assistant", response), id=source_id)
            for context, instruction, response, source_id in written
        ]
        with tempfile.TemporaryDirectory() as folder:
            assert read_rows(Path(folder), scheme, rows) == [as_sample(*parts) for parts in written]

    @every_format
    @settings(deadline=None)
    @given(written=samples)
    def test_explicit(self, scheme: str, written: list[tuple[str, str, str, str]]) -> None:
        names = ("context", "instruction", "response", "id")
        rows = [dict(zip(names, parts, strict=True)) for parts in written]
        with tempfile.TemporaryDirectory() as folder:
            assert read_rows(Path(folder), scheme, rows) == [as_sample(*parts) for parts in written]

    @settings(deadline=None)
    @given(written=samples, ensure_ascii=st.booleans(), zipped=st.booleans())
    def test_every_spelling_of_json(
        self, written: list[tuple[str, str, str, str]], ensure_ascii: bool, zipped: bool
    ) -> None:
        names = ("context", "instruction", "response", "id")
        rows = [dict(zip(names, parts, strict=True)) for parts in written]
        lines = "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in rows).encode()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "a.jsonl").write_bytes(gzip.compress(lines) if zipped else lines)
            assert scored(only_shard(f"jsonl:{folder}")) == [as_sample(*parts) for parts in written]


def as_sample(context: str, instruction: str, response: str, source_id: str) -> SourceSample:
    return sample(context, instruction, response, source_id=source_id)
