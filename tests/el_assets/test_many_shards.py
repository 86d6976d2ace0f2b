"""Runs over many shards from the shell, and what they and a look say of a broken index: as a user does it."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from el_assets.__main__ import main
from el_assets.partitions import contiguous_ranges
from el_resources.store.context_store import ContextStore
from tests.conftest import library_documents, write_json_lines

N_SHARDS = 5


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home whose index was built from the shell, two shards a run."""
    home = tmp_path_factory.mktemp("built")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    for number in range(N_SHARDS):
        write_json_lines(home / "corpus" / f"{number}.jsonl", library_documents(1, offset=number))
    with pytest.MonkeyPatch.context() as patch:
        enter(home, patch)
        assert main(["run", "--select", "index"]) == 0
    return home


def enter(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a folder the home of commands."""
    patch.chdir(home)
    for name, value in {
        "DAGSTER_HOME": str(home),
        "EL_CORPUS": f"jsonl:{home / 'corpus'}",
        "EL_STORE": str(home / "store"),
        "EL_SHARDS_PER_RUN": "2",
    }.items():
        patch.setenv(name, value)


@pytest.fixture
def home(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(built, monkeypatch)
    return built


def test_the_shell_takes_so_many_shards_a_run_and_what_is_over_all_of_them_once(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        runs = [run for run in reversed(instance.get_runs()) if run.job_name == "build_index"]
        stats = [{one.step_key for one in instance.get_run_step_stats(run.run_id)} for run in runs]
        sizes = [
            len(
                [
                    e
                    for e in instance.all_logs(run.run_id)
                    if e.dagster_event and e.dagster_event.is_step_materialization
                ]
            )
            for run in runs
        ]
    of_all = {"retrieval_index", "retrieval_index_index_holds_every_chunk", "documents_texts_are_unique_over_shards"}
    assert [steps & of_all for steps in stats] == [set(), set(), of_all]
    assert all({"documents", "context_chunks", "documents_sources_are_readable"} < steps for steps in stats)
    assert sizes == [4, 4, 3], "documents and chunks of two, two and one shards; the index"


def test_no_event_names_more_shards_than_its_run_has(home: Path) -> None:
    files = [path for path in home.rglob("*.db") if path.parent.name == "runs" and path.stem != "index"]
    events = [
        event
        for file in files
        for (event,) in sqlite3.connect(file).execute("select event from event_logs where event is not null")
    ]
    assert len(events) > 50
    assert max(sum(f"{number}.jsonl" in event for number in range(N_SHARDS)) for event in events) <= 2


@pytest.mark.parametrize(
    ("wanted", "most", "expected"),
    [
        ("abcde", 2, ["ab", "cd", "ee"]),
        ("abcde", 5, ["ae"]),
        ("abde", 2, ["ab", "de"]),
        ("acde", 2, ["aa", "cd", "ee"]),
        ("", 3, []),
    ],
)
def test_ranges_hold_the_wanted_shards_and_so_many_at_most(wanted: str, most: int, expected: list[str]) -> None:
    assert ["".join(ends) for ends in contiguous_ranges(set(wanted), list("abcde"), most=most)] == expected


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(0).randrange(len(data))] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("context_chunks.lance/_versions/*", Path.unlink),
        ("context_chunks.lance/data/*.lance", flip),
    ],
)
def test_a_broken_index_is_said_counts_as_missing_and_is_made_anew(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    damage: Callable[[Path], None],
) -> None:
    index = home / "store" / "context_store"
    before = ContextStore(str(index)).open().chunk_ids()
    assert main(["status", "--select", "index"]) == 0
    capsys.readouterr()
    for path in index.glob(kind):
        damage(path)
    assert main(["status", "--select", "index"]) == 1
    shown = capsys.readouterr().out
    assert "retrieval_index: missing: its files are broken: " in shown
    assert "job build_index builds it again" in shown
    assert main(["run", "--select", "entropylong", "--shards", "0.jsonl"]) == 1
    assert f"the retrieval index at '{index}' is broken: " in capsys.readouterr().err.splitlines()[-1]
    assert main(["run", "--select", "index"]) == 0
    assert ContextStore(str(index)).open().chunk_ids().equals(before)
    capsys.readouterr()
    assert main(["status", "--select", "index"]) == 0


def test_a_failed_check_that_does_not_block_is_said_and_ends_with_an_error(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that another program put into the index are an ERROR of a check; a text in two shards is a warning."""
    home = tmp_path / "home"
    shutil.copytree(built / "corpus", home / "corpus")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    shutil.copyfile(home / "corpus" / "0.jsonl", home / "corpus" / "9.jsonl")
    enter(home, monkeypatch)
    monkeypatch.setattr("el_assets.corpus.checks.context_store", lambda settings: _Doubled())
    assert main(["run", "--select", "index"]) == 1
    shown = capsys.readouterr()
    assert "failed check: retrieval_index: index_holds_every_chunk: missing: " in shown.err
    assert "warning: documents: texts_are_unique_over_shards: " in shown.out


class _Doubled:
    """An index that lost what was put there."""

    def open(self) -> "_Doubled":
        return self

    def chunk_ids(self) -> object:
        import polars as pl

        return pl.DataFrame(schema={"chunk_id": pl.String, "shard": pl.String})
