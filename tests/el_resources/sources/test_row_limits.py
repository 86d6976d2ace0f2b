"""Long lines, cells and documents are bad rows, named by place, and memory does not follow them."""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from el_resources.settings import Settings
from el_resources.sources.contracts import CorruptShardError, SourceDocument
from el_resources.sources.opening import open_corpus, open_instructions
from el_resources.sources.row_limits import MIB, RowLimits
from tests.conftest import Workspace, library_documents
from tests.support.pools import no_tokenizer, no_windows

ROOT = Path(__file__).parents[3]
SMALL = RowLimits(line_bytes=MIB, text_chars=2_000)
LONG_BYTES = 200 * MIB


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


PACKS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


def documents(place: Path, scheme: str = "jsonl", limits: RowLimits = SMALL) -> list[SourceDocument]:
    corpus = open_corpus(f"{scheme}:{place}", limits=limits)
    (shard,) = corpus.shards()
    return list(corpus.documents(shard))


def reasons(found: list[SourceDocument]) -> list[str | None]:
    return [document.set_aside_reason for document in found]


def test_a_long_line_is_set_aside_with_its_number_and_those_after_it_are_read(tmp_path: Path) -> None:
    long = json.dumps({"text": "x" * (3 * MIB)})
    rows = [
        '{"text": "a"}',
        long,
        '{"text": "b"}',
        json.dumps({"text": "y" * 2_001}),
        json.dumps({"text": "z" * 2_000}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = documents(tmp_path)
    assert reasons(found) == [None, "line_too_long", None, "text_too_long", None]
    assert found[1].detail == f"line 2 has {len(long) + 1:,} bytes, more than EL_LINE_MIB_MAX=1 allows"
    assert found[3].detail == "line 4 has 2,001 characters, more than EL_DOCUMENT_CHARS_MAX=2000 allows"


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_limit_is_exact(tmp_path: Path, extra: int) -> None:
    frame = len(json.dumps({"n": "", "text": "t"})) + 1
    line = json.dumps({"n": "n" * (MIB - frame + extra), "text": "t"}) + "\n"
    (tmp_path / "a.jsonl").write_text(line + '{"text": "u"}\n')
    assert reasons(documents(tmp_path)) == [None if extra < 1 else "line_too_long", None]


def test_a_long_cell_of_parquet_is_set_aside_with_its_row(tmp_path: Path) -> None:
    texts = ["a", "é" * MIB, "b" * 2_001, "c"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression="none")
    found = documents(tmp_path, "parquet")
    assert reasons(found) == [None, "line_too_long", "text_too_long", None]
    assert found[1].detail == f"row 2 has {2 * MIB:,} bytes, more than EL_LINE_MIB_MAX=1 allows"


def test_a_parquet_column_that_unpacks_to_nothing_but_size_is_refused(tmp_path: Path) -> None:
    table = pa.table({"id": ["1"], "text": ["x" * (80 * MIB)], "unread": ["y" * MIB]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(CorruptShardError, match=r"its column 'text' has .* bytes that unpack to .*; it is not text"):
        documents(tmp_path, "parquet")


def test_a_long_conversation_is_set_aside(tmp_path: Path) -> None:
    def sample(size: int) -> dict[str, Any]:
        turns = [{"from": "human", "value": "q" * size}, {"from": "gpt", "value": "answer"}]
        return {"conversations": turns * 2}

    (tmp_path / "a.jsonl").write_text("".join(json.dumps(sample(size)) + "\n" for size in (10, 1_000)))
    uri = f"jsonl:{tmp_path}"
    pool = open_instructions(uri, tokenizer=no_tokenizer, samples_per_kind=1, windows=no_windows, limits=SMALL)
    found = list(pool.samples("a.jsonl"))
    assert [one.set_aside_reason for one in found] == [None, "text_too_long"]
    assert "line 2 has 2,012 characters" in found[1].detail


@pytest.mark.parametrize("suffix", PACKS)
def test_memory_does_not_follow_what_a_small_file_unpacks_to(tmp_path: Path, suffix: str) -> None:
    content = b'{"text": "first"}\n{"text": "' + b"x" * LONG_BYTES + b'"}\n{"text": "last"}\n'
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(PACKS[suffix](content))
    assert (tmp_path / f"a.jsonl.{suffix}").stat().st_size < MIB
    code = (
        "import resource, sys; from el_resources.sources.opening import open_corpus\n"
        "from el_resources.sources.row_limits import RowLimits\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "corpus = open_corpus(f'jsonl:{sys.argv[1]}', limits=RowLimits(line_bytes=8 << 20))\n"
        "rows = corpus.documents(corpus.shards()[0]); next(rows); before = used()\n"
        "print([row.set_aside_reason or row.text for row in rows], used() - before, sep='|')"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found, grown_kib = done.stdout.split("|")
    assert found == "['line_too_long', 'last']"
    assert int(grown_kib) < 40_000  # of 200 MiB; a line within the limit has 8


def test_a_line_without_an_end_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(b'{"text": "' + b"x" * (70 * MIB)))
    with pytest.raises(CorruptShardError, match=r"line 1 has no end within 0.0625 GiB: it is not JSON lines"):
        documents(tmp_path)


def test_a_run_sets_the_row_aside_under_the_share_of_bad_rows(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(document_chars_max=2_000)
    rows = [*library_documents(3), {"id": "long", "text": "word " * 1_000}]
    workspace.write_shard("a.jsonl", rows)
    workspace.register()
    assert workspace.materialize("documents").success
    table = workspace.tables.read("documents", "a.jsonl")
    assert table["set_aside_reason"].to_list() == [None] * 3 + ["text_too_long"]
    assert table["set_aside_detail"][3] == "line 4 has 5,000 characters, more than EL_DOCUMENT_CHARS_MAX=2000 allows"
    workspace.materialize("documents", document_chars_max=6_000)
    assert workspace.tables.read("documents", "a.jsonl")["set_aside_reason"].null_count() == 4
    workspace.write_shard("a.jsonl", [*rows, *rows[3:]])
    found = workspace.materialize("documents")
    assert not all(check.passed for check in found.get_asset_check_evaluations())
    stamp = workspace.tables.require_stamp("documents", "a.jsonl")
    assert "2 of its 5 rows cannot be read" in stamp.facts["unreadable"]


def test_the_default_limits_change_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    found = [
        open_corpus(f"jsonl:{tmp_path}", limits=one).shard_fingerprint("a.jsonl") for one in (None, RowLimits(), SMALL)
    ]
    assert found[0] == found[1] != found[2]
    given = Settings.load({}).subset(("line_mib_max", "document_chars_max"))
    assert RowLimits.of(**given) == RowLimits()
