import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_resources.sources.contracts import CorruptShardError, SourceDocument
from el_resources.sources.file_formats import BATCH_ROWS
from el_resources.sources.opening import open_corpus
from tests.conftest import write_json_lines
from tests.support.written_files import Row, empty_folder, write_parquet


def only_shard(uri: str, **options: str) -> list[SourceDocument]:
    corpus = open_corpus(uri, **options)
    (shard,) = corpus.shards()
    return list(corpus.documents(shard))


def bad(reason: str, detail: str, source_id: str | None = None) -> SourceDocument:
    return SourceDocument(source_id=source_id, text="", set_aside_reason=reason, detail=detail)


# What any text may be that UTF-8 can hold: NUL, line separators, empty, astral planes.
texts = st.text(st.characters(exclude_categories=["Cs"]))
rows = st.fixed_dictionaries({"text": texts, "id": texts.filter(bool), "url": texts, "license": texts})


def as_document(row: Row) -> SourceDocument:
    return SourceDocument(source_id=row["id"], text=row["text"], url=row["url"], license=row["license"])


class TestParquet:
    def test_fineweb_edu(self, tmp_path: Path) -> None:
        row = {
            "text": "A lesson.",
            "id": "<urn:uuid:1>",
            "dump": "CC-MAIN-2024-10",
            "url": "https://a.org/",
            "score": 3.1,
        }
        write_parquet(tmp_path / "a.parquet", [row])
        assert only_shard(f"parquet:{tmp_path}") == [
            SourceDocument(source_id="<urn:uuid:1>", text="A lesson.", url="https://a.org/")
        ]

    def test_cosmopedia(self, tmp_path: Path) -> None:
        row = {"prompt": "Write.", "text_token_length": 3, "text": "A story.", "seed_data": "web", "format": "story"}
        write_parquet(tmp_path / "a.parquet", [row | {"audience": "general"}])
        assert only_shard(f"parquet:{tmp_path}") == [SourceDocument(source_id=None, text="A story.")]

    def test_any_other_text_column_by_name(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [{"text": "no", "meta.body": "yes", "license": "MIT", "id": 7}])
        assert only_shard(f"parquet:{tmp_path}", text_column="meta.body") == [
            SourceDocument(source_id="7", text="yes", license="MIT")
        ]

    @pytest.mark.parametrize(("options", "column"), [({}, "text"), ({"text_column": "body"}, "body")])
    def test_no_text_column_lists_the_columns(self, tmp_path: Path, options: dict[str, str], column: str) -> None:
        write_parquet(tmp_path / "a.parquet", [{"content": "x", "n": 1}])
        with pytest.raises(CorruptShardError, match=f"no column '{column}'; it has content, n; .*EL_TEXT_COLUMN"):
            only_shard(f"parquet:{tmp_path}", **options)

    def test_a_column_of_numbers_is_no_text(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [{"text": 1}])
        with pytest.raises(CorruptShardError, match=r"'text' holds int64, not text; .*EL_TEXT_COLUMN"):
            only_shard(f"parquet:{tmp_path}")

    @pytest.mark.parametrize("twice", ["text", "id", "extra"])
    def test_a_column_that_is_there_twice_is_named(self, tmp_path: Path, twice: str) -> None:
        columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
        names = ["text", twice, twice if twice != "text" else "x"]
        pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "a.parquet")
        with pytest.raises(CorruptShardError, match=f"more than one column '{twice}'; rename or drop all but one"):
            only_shard(f"parquet:{tmp_path}")

    @pytest.mark.parametrize(
        "kind",
        [
            pa.string(),
            pa.large_string(),
            pa.string_view(),
            pa.binary(),
            pa.large_binary(),
            pa.binary_view(),
            pa.dictionary(pa.int32(), pa.string()),
        ],
        ids=str,
    )
    def test_every_arrow_type_of_text(self, tmp_path: Path, kind: pa.DataType) -> None:
        values = pa.array([b"gr\xc3\xbcn", None, b""], pa.binary()).cast(pa.string()).cast(kind)
        pq.write_table(pa.table({"text": values, "id": values}), tmp_path / "a.parquet")
        documents = only_shard(f"parquet:{tmp_path}")
        assert [(document.text, document.source_id) for document in documents] == [
            ("grün", "grün"),
            ("", None),
            ("", None),
        ]

    def test_a_column_of_nulls_holds_empty_texts(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "a.parquet", [{"text": None, "id": "a"}])
        assert only_shard(f"parquet:{tmp_path}") == [SourceDocument(source_id="a", text="")]

    @pytest.mark.parametrize("kind", [pa.binary(), pa.string()], ids=str)
    def test_rows_that_are_not_utf8_are_set_aside(self, tmp_path: Path, kind: pa.DataType) -> None:
        options = pc.CastOptions(target_type=kind, allow_invalid_utf8=True)
        values = pa.array([b"good", b"caf\xe9", b"\xed\xa0\x80"], pa.binary()).cast(options=options)
        pq.write_table(pa.table({"text": values, "url": values, "id": ["a", "b", "c"]}), tmp_path / "a.parquet")
        good, latin, surrogate = only_shard(f"parquet:{tmp_path}")
        assert good == SourceDocument(source_id="a", text="good", url="good")
        assert latin == SourceDocument(
            source_id="b",
            text="",
            url=r"caf\xe9",
            set_aside_reason="not_utf8",
            detail="row 2: the text is not UTF-8",
        )
        assert (surrogate.set_aside_reason, surrogate.detail) == ("not_utf8", "row 3: the text is not UTF-8")

    def test_rows_are_counted_over_batches(self, tmp_path: Path) -> None:
        texts = pa.array([b"good"] * (BATCH_ROWS + 1) + [b"\xff"], pa.binary())
        pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
        assert only_shard(f"parquet:{tmp_path}")[-1].detail == f"row {BATCH_ROWS + 2}: the text is not UTF-8"

    def test_order_is_kept_over_batches(self, tmp_path: Path) -> None:
        n_rows = 2 * BATCH_ROWS + 3
        table = pa.table({"text": [str(number) for number in range(n_rows)]})
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=BATCH_ROWS - 1)
        assert [document.text for document in only_shard(f"parquet:{tmp_path}")] == [str(n) for n in range(n_rows)]

    @settings(deadline=None)  # files are written, on machines of any load
    @given(st.lists(rows, min_size=1, max_size=5))
    def test_round_trip(self, written: list[Row]) -> None:
        with empty_folder() as folder:
            write_parquet(folder / "a.parquet", written)
            assert only_shard(f"parquet:{folder}") == [as_document(row) for row in written]


class TestJsonl:
    def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_skipped(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b", "id": 2}')
        assert only_shard(f"jsonl:{tmp_path}") == [
            SourceDocument(source_id=None, text="a"),
            SourceDocument(source_id="2", text="b"),
        ]

    def test_optional_fields_may_be_null(self, tmp_path: Path) -> None:
        write_json_lines(tmp_path / "a.jsonl", [{"text": None, "id": None, "url": None, "license": None}])
        assert only_shard(f"jsonl:{tmp_path}") == [SourceDocument(source_id=None, text="")]

    def test_lines_that_are_not_utf8_are_set_aside(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(
            b'{"text": "caf\xe9"}\n{"text": "\\ud800", "id": "\\ud800"}\n{"text": "good", "id": "c"}\n'
        )
        assert only_shard(f"jsonl:{tmp_path}") == [
            bad("not_utf8", "line 1 is not UTF-8"),
            bad("not_utf8", "line 2: the text is not UTF-8", r"\ud800"),
            SourceDocument(source_id="c", text="good"),
        ]

    def test_documents_stream(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "first"}\n' * 200_000)[:-20])
        documents = open_corpus(f"jsonl:{tmp_path}").documents("a.jsonl.gz")
        assert next(documents).text == "first"
        with pytest.raises(CorruptShardError, match="ended before the end-of-stream"):
            list(documents)

    @settings(deadline=None)  # files are written, on machines of any load
    @given(st.lists(rows, min_size=1, max_size=5), st.booleans(), st.booleans())
    def test_round_trip(self, written: list[Row], ensure_ascii: bool, zipped: bool) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=ensure_ascii) + "\n" for row in written).encode()
        with empty_folder() as folder:
            (folder / "a.jsonl").write_bytes(gzip.compress(lines, compresslevel=1) if zipped else lines)
            assert only_shard(f"jsonl:{folder}") == [as_document(row) for row in written]


class TestCorruptShards:
    @pytest.mark.parametrize(
        ("content", "reason", "detail"),
        [
            (
                b'{"text": "a"}\n\n{"text": "b"\n',
                "not_json",
                r"line 3 is not JSON \(.* at character 13\)",
            ),
            (b'{"text": "a"}\n{"text": "b', "not_json", r"line 2 is not JSON \(.*; it is the last .* cut off\)"),
            (b'["text"]\n', "not_an_object", "line 1 is a JSON list, not an object"),
            (b"null\n", "not_an_object", "line 1 is a JSON NoneType, not an object"),
            (b'{"body": "a", "n": 1}\n', "no_text", "line 1 has no 'text'; it has body, n; .*EL_TEXT_COLUMN.*"),
            (b"{}\n", "no_text", "line 1 has no 'text'; it has none; .*"),
            (b'{"text": 1}\n', "text_not_text", "line 1: 'text' holds int, not text"),
            (b'{"text": NaN}\n', "text_not_text", "line 1: 'text' holds NaN, not text"),
            (b'{"text": ["a"]}\n', "text_not_text", "line 1: 'text' holds list, not text"),
            (b'{"text": ' + b"[" * 100_000, "not_json", "line 1 is not JSON .*"),
            (b'{"n": ' + b"1" * 5_000 + b"}\n", "not_json", "line 1 is not JSON .*"),
        ],
    )
    def test_a_bad_line_is_a_document_with_its_reason_and_line(
        self, tmp_path: Path, content: bytes, reason: str, detail: str
    ) -> None:
        (tmp_path / "a.jsonl").write_bytes(content)
        *_, document = only_shard(f"jsonl:{tmp_path}")
        assert document.set_aside_reason == reason
        assert re.fullmatch(detail, document.detail)
        assert document.text == ""

    def test_the_fields_of_a_row_without_text_stay(self, tmp_path: Path) -> None:
        write_json_lines(tmp_path / "a.jsonl", [{"id": "x", "url": "u", "license": "MIT", "text": ["a"]}])
        (document,) = only_shard(f"jsonl:{tmp_path}")
        assert (document.source_id, document.url, document.license) == ("x", "u", "MIT")
        assert document.set_aside_reason == "text_not_text"

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda content: content[:-12], "ended before the end-of-stream"),
            (lambda content: content[:-8] + bytes(8), "CRC"),
            (lambda content: content[:12] + bytes([content[12] ^ 255]) + content[13:], "."),
            (lambda content: b"\n" + content, "not text, but binary data"),
            (lambda content: b"", "is empty .* a compressed file never is"),
        ],
    )
    def test_broken_gzip(self, tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
        content = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(1000)))
        (tmp_path / "a.jsonl.gz").write_bytes(damage(content))
        with pytest.raises(CorruptShardError, match=reason):
            only_shard(f"jsonl:{tmp_path}")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[: len(content) // 2],
            lambda content: b"",
            lambda content: b"not a Parquet file at all",
            lambda content: content[:60] + bytes([content[60] ^ 255]) + content[61:],
        ],
        ids=["truncated", "empty", "other", "flipped"],
    )
    def test_broken_parquet_among_good_files(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        for name in ("a", "b", "c"):
            table = pa.table({"text": [f"{name}{number}" for number in range(1000)]})
            pq.write_table(table, tmp_path / f"{name}.parquet", write_page_checksum=True)
        broken = tmp_path / "b.parquet"
        broken.write_bytes(damage(broken.read_bytes()))

        corpus = open_corpus(f"parquet:{tmp_path}")
        assert corpus.shards() == ["a.parquet", "b.parquet", "c.parquet"]
        with pytest.raises(CorruptShardError, match=r"b\.parquet") as raised:
            list(corpus.documents("b.parquet"))
        assert (raised.value.shard, raised.value.path) == ("b.parquet", str(broken))
        assert raised.value.reason
        for shard in ("a.parquet", "c.parquet"):
            assert len(list(corpus.documents(shard))) == 1000
