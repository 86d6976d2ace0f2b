"""Files that nobody meant, through the command line and through real runs: named, passed over, or failing alone."""

import bz2
import gzip
import json
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from el_assets.__main__ import main
from el_assets.operations.staleness import Inventory
from el_assets.sources import KINDS
from el_resources.sources.opening import open_corpus
from tests.conftest import Workspace, failed_checks

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def lines(name: str, n_rows: int = 3) -> bytes:
    rows = ({"id": f"{name}-{number}", "text": f"Text {number} of file {name}."} for number in range(n_rows))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


GOOD = {
    "bzip.jsonl.bz2": bz2.compress(lines("bzip", 1)) + bz2.compress(lines("bzip")),
    "gzip.jsonl.gz": gzip.compress(lines("gzip")),
    "misnamed.jsonl": lzma.compress(lines("misnamed")),
    "one-bad.jsonl": lines("one-bad") + b'{"text": \n',
    "plain.jsonl": lines("plain"),
    "xz.ndjson.xz": lzma.compress(lines("xz")),
}
REFUSED = {
    "array.jsonl": (json.dumps([{"text": "a"}]).encode(), "it is a JSON array"),
    "bad.jsonl": (lines("bad", 8) + b"no\n[1]\n", "2 of its 10 rows cannot be read"),
    "binary.jsonl": (bytes(range(256)) * 16, "it is not text, but binary data"),
    "cut.jsonl.gz": (gzip.compress(lines("cut"))[:-9], "ended before the end-of-stream"),
    "page.jsonl": (b"<!DOCTYPE html><title>404</title>", "it is an HTML or XML page"),
    "table.jsonl": (b"PAR1", "it is Parquet; read it by parquet:"),
    "twice.jsonl.gz": (gzip.compress(gzip.compress(lines("twice"))), "it is compressed twice (gzip within gzip)"),
}
PASSED_OVER = {
    "._plain.jsonl": b"\0\5\x16\7",
    ".ipynb_checkpoints/x.jsonl": lines("hidden"),
    "_SUCCESS": b"",
    "pointer.jsonl": LFS,
    "README.md": b"# Corpus",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "a + b [roots=no]"
    for name, content in {**GOOD, **{name: bad for name, (bad, _) in REFUSED.items()}, **PASSED_OVER}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "link.jsonl").symlink_to("/nowhere")
    return folder


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command with settings in the environment, and all that it prints."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.chdir(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("EL_STORE", str(tmp_path / "store"))

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            capsys.readouterr()
            status = main([*arguments])
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


def test_a_folder_of_all_kinds(
    corpus: Path, cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = cli("run", "--select", "index", EL_CORPUS=f"jsonl:{corpus}")
    assert done.returncode == 1, done.stderr
    for line in (
        "2 hidden: the name begins with a dot (._plain.jsonl, .ipynb_checkpoints)",
        "1 written by Spark, Dask or Delta Lake next to data (_SUCCESS)",
        "1 a Git LFS pointer; fetch its content with `git lfs pull` in the repository (pointer.jsonl)",
        "1 named otherwise than .jsonl or .ndjson, compressed or not (README.md)",
    ):
        assert f"  passed over: {line}\n" in done.stdout
    not_read = dict(line.split("cannot be read from ", 1) for line in done.stdout.splitlines() if "not read:" in line)
    said = {name: words for name, (_, words) in REFUSED.items()} | {"link.jsonl": "it is not there"}
    for name, words in said.items():
        assert words in not_read.pop(f"  not read: shard {name!r} ")
    assert not_read == {}

    assert "  unreadable row: one-bad.jsonl: line 4 is not JSON (Expecting value at character 9)\n" in done.stdout

    tables = {path.stem: pl.read_parquet(path) for path in (tmp_path / "store/tables/documents").glob("*.parquet")}
    assert set(tables) == {*GOOD, *said}
    texts = {name: table.filter(pl.col("set_aside_reason").is_null()) for name, table in tables.items()}
    assert {name: table.height for name, table in texts.items()} == dict.fromkeys(GOOD, 3) | dict.fromkeys(said, 0)
    bad = tables["one-bad.jsonl"].row(-1, named=True)
    assert (bad["set_aside_reason"], bad["set_aside_detail"]) == (
        "not_json",
        "line 4 is not JSON (Expecting value at character 9)",
    )

    status = cli("status", "--select", "index", EL_CORPUS=f"jsonl:{corpus}")
    assert status.returncode == 1, "not everything is done as long as files are not read"
    assert f"shard 'array.jsonl' cannot be read from {corpus}/array.jsonl: it is a JSON array" in status.stdout
    assert f"not read: {len(said) - 5} more; --shards names them" in status.stdout
    assert ["documents", str(len(GOOD) + len(said)), "0", "0"] in map(str.split, status.stdout.splitlines())


def test_registering_says_what_it_passed_over(
    corpus: Path, cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "a.jsonl").write_text("{}\n")
    (pool / ".b.jsonl").write_text("{}\n")
    done = cli("register", EL_CORPUS=f"jsonl:{corpus}/*.jsonl", EL_INSTRUCTIONS=f"jsonl:{pool}")
    assert done.returncode == 0, done.stderr
    corpus_line, pool_line = (
        done.stdout.index(f"shards of jsonl:{corpus}"),
        done.stdout.index(f"shards of jsonl:{pool}"),
    )
    assert corpus_line < done.stdout.index("(._plain.jsonl)") < pool_line < done.stdout.index("(.b.jsonl)")


def test_rows_beyond_the_limits_are_named_with_their_file_first_few_then_a_count(
    cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    long_line = json.dumps({"text": "x" * (1 << 20)}).encode() + b"\n"
    long_text = json.dumps({"text": "y" * 2000}).encode() + b"\n"
    (corpus / "a.jsonl").write_bytes(lines("a") + long_line + lines("b") + long_text * 3)
    (corpus / "b.jsonl").write_bytes(lines("c") + long_text * 3)
    limits = {"EL_LINE_MIB_MAX": "1", "EL_DOCUMENT_CHARS_MAX": "1000", "EL_BAD_ROWS_MAX_SHARE": "0.9"}
    done = cli("run", "--select", "index", EL_CORPUS=f"jsonl:{corpus}", **limits)
    assert done.returncode == 0, done.stderr
    told = [line.removeprefix("  unreadable row: ") for line in done.stdout.splitlines() if "unreadable row" in line]
    too_long = "has 2,000 characters, more than EL_DOCUMENT_CHARS_MAX=1000 allows"
    assert told == [
        f"a.jsonl: line 4 has {len(long_line):,} bytes, more than EL_LINE_MIB_MAX=1 allows",
        *(f"a.jsonl: line {number} {too_long}" for number in (8, 9, 10)),
        f"b.jsonl: line 4 {too_long}",
        "2 more rows; the column set_aside_detail of documents names each",
    ]


class TestOneBadFile:
    @pytest.fixture
    def workspace(self, new_workspace: Callable[..., Workspace]) -> Workspace:
        made = new_workspace()
        (made.folder / "corpus").mkdir(exist_ok=True)
        made.settings["corpus"] = f"parquet:{made.folder / 'corpus'}"
        return made

    @staticmethod
    def write(workspace: Workspace, name: str, **columns: Any) -> None:
        pl.DataFrame(columns).write_parquet(workspace.folder / "corpus" / name)

    def test_another_schema_fails_alone(self, workspace: Workspace) -> None:
        self.write(workspace, "a.parquet", body=["one"])
        self.write(workspace, "b.parquet", text=[1.5, float("nan")])
        self.write(workspace, "c.parquet", text=["good", None])
        workspace.register()
        assert failed_checks(workspace.materialize("documents")) == {"sources_are_readable"}
        stamps = {name: workspace.tables.require_stamp("documents", f"{name}.parquet") for name in "abc"}
        said = {name: stamp.facts.get("unreadable") for name, stamp in stamps.items()}
        assert "it has no column 'text'; it has body; name the one that holds the text with EL_TEXT_COLUMN" in said["a"]
        assert "its column 'text' holds double, not text" in said["b"]
        assert said["c"] is None
        assert workspace.tables.read("documents", "c.parquet")["text"].to_list() == ["good", ""]

    def test_a_file_that_is_repaired_is_read_by_the_next_run_and_no_other_is(self, workspace: Workspace) -> None:
        self.write(workspace, "a.parquet", text=["good"])
        (workspace.folder / "corpus" / "b.parquet").symlink_to("b.parquet")
        workspace.register()
        assert failed_checks(workspace.materialize("documents")) == {"sources_are_readable"}
        source = open_corpus(workspace.settings["corpus"])
        inventory = Inventory(workspace.loaded(), source, ["a.parquet", "b.parquet"], KINDS["corpus"].rules)
        assert inventory.unfinished(["documents"]) == [], "a table that says what is wrong is not stale"
        (workspace.folder / "corpus" / "b.parquet").unlink()
        self.write(workspace, "b.parquet", text=["back"])
        assert Inventory(workspace.loaded(), source, ["a.parquet", "b.parquet"], KINDS["corpus"].rules).unfinished(
            ["documents"]
        ) == ["b.parquet"]
        assert failed_checks(workspace.materialize("documents")) == set()
        assert workspace.tables.read("documents", "b.parquet")["text"].to_list() == ["back"]


class TestBadRows:
    def test_they_are_rows_with_their_reason_and_line_up_to_a_share(
        self, new_workspace: Callable[..., Workspace]
    ) -> None:
        workspace = new_workspace()
        (workspace.folder / "corpus").mkdir(exist_ok=True)
        (workspace.folder / "corpus" / "a.jsonl").write_bytes(
            lines("a", 6) + b'\xff\nno\n[1]\n{"id": "x"}\n{"id": "y", "text": NaN}\n'
        )
        workspace.register()
        result = workspace.materialize("documents")
        assert failed_checks(result) == {"sources_are_readable"}
        problem = workspace.tables.require_stamp("documents", "a.jsonl").facts["unreadable"]
        assert "5 of its 11 rows cannot be read (45.45%; EL_BAD_ROWS_MAX_SHARE=0.01 allows 1)" in problem
        assert "line 7 is not UTF-8; line 8 is not JSON (Expecting value at character 1); line 9" in problem

        assert failed_checks(workspace.materialize("documents", bad_rows_max_share=0.5)) == set()
        table = workspace.tables.read("documents", "a.jsonl")
        assert table["set_aside_reason"].to_list() == [
            *[None] * 6,
            *("not_utf8", "not_json", "not_an_object", "no_text", "text_not_text"),
        ]
        assert [str(detail)[:8].rstrip(": ") for detail in table["set_aside_detail"][6:]] == [
            "line 7 i",
            "line 8 i",
            "line 9 i",
            "line 10",
            "line 11",
        ]
        assert workspace.tables.require_stamp("documents", "a.jsonl").facts["documents"] == 6
