"""The command in a process of its own: killed in the middle, started again, compared with an undisturbed run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from el_assets.__main__ import main
from el_assets.operations.failed_runs import PROCESS_TAG
from el_resources.store.shard_tables import ShardTables
from tests.conftest import library_documents, write_json_lines
from tests.support.small_settings import SMALL, as_environment

ROOT = Path(__file__).parents[2]
SHARDS = ("a.jsonl", "b.jsonl", "c.jsonl")
ASSETS = (
    "documents",
    "context_chunks",
    "entropy_maps",
    "candidate_contexts",
    "context_scores",
    "verified_pairs",
    "packed_sequences",
)
SETTINGS = {**SMALL, "chunk_tokens": 64, "sequence_tokens": 600}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working directory with the repository's dagster.yaml and a corpus of three shards."""
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    for number, name in enumerate(SHARDS):
        write_json_lines(tmp_path / "corpus" / name, library_documents(6, offset=6 * number))
    return tmp_path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in this process, which has loaded all that it imports; returns what it prints."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    for name, value in as_environment(SETTINGS).items():
        monkeypatch.setenv(name, value)

    def run(store: str, *more: str, code: int = 0) -> str:
        ended_with = main([*arguments(home, store), *more])
        said = capsys.readouterr()
        assert ended_with == code, said.out + said.err
        return said.out + said.err

    return run


def arguments(home: Path, store: str) -> list[str]:
    return ["run", "--select", "index,entropylong", "--corpus", f"jsonl:{home / 'corpus'}", "--store", store]


def started(home: Path, store: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "el_assets", *arguments(home, store)],
        cwd=home,
        env={**os.environ, **as_environment(SETTINGS), "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_after_a_kill_what_is_missing_is_made_and_then_nothing(home: Path, run: Callable[..., str]) -> None:
    process = started(home, "killed")
    tables = ShardTables(str(home / "killed"))
    deadline = time.monotonic() + 240
    while not tables.exists("context_scores", SHARDS[0]):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no shard landed in time"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    landed = {path: path.stat().st_mtime_ns for path in (home / "killed" / "tables").rglob("*.parquet")}
    assert not tables.exists("context_scores", SHARDS[-1]), "killed too late to show anything"

    output = run("killed")
    assert {path: path.stat().st_mtime_ns for path in landed} == landed
    n_units = sum(int(tables.require_stamp("context_scores", s).facts["units"]) for s in SHARDS)
    n_redone = sum(
        int(tables.require_stamp("context_scores", s).facts["units"])
        for s in SHARDS
        if tables.path("context_scores", s) not in landed
    )
    assert 0 < n_redone < n_units
    assert re.search(rf"forwards in this run +{n_redone}\n", output), output

    run("undisturbed")
    undisturbed = ShardTables(str(home / "undisturbed"))
    for asset in ASSETS:
        for shard in SHARDS:
            assert_frame_equal(tables.read(asset, shard), undisturbed.read(asset, shard), abs_tol=1e-4, rel_tol=0)
    assert sum(undisturbed.read("packed_sequences", shard).height for shard in SHARDS) > 0

    before = {path: path.read_bytes() for path in (home / "killed" / "tables").rglob("*.parquet")}
    output = run("killed", "--shards", SHARDS[0])
    assert re.search("forwards in this run +0: every table was up to date and none was written", output), output
    assert {path: path.read_bytes() for path in (home / "killed" / "tables").rglob("*.parquet")} == before

    with dg.DagsterInstance.from_config(str(home)) as instance:
        killed = [run for run in instance.get_runs() if run.tags.get(PROCESS_TAG, "").endswith(f":{process.pid}")]
        assert dg.DagsterRunStatus.FAILURE in {run.status for run in killed}, "a lost run is closed, not left running"


def test_a_corrupt_file_is_named_and_the_others_go_on(home: Path, run: Callable[..., str]) -> None:
    (home / "corpus" / SHARDS[1]).write_bytes(b'{"text": "fine"}\n' + b'{"text": broken\n' * 2)
    output = run("store", code=1)
    assert SHARDS[1] in output
    assert "2 of its 3 rows cannot be read" in output and "line 2 is not JSON" in output
    tables = ShardTables(str(home / "store"))
    for shard in (SHARDS[0], SHARDS[2]):
        assert tables.read("context_scores", shard).height > 0
    assert tables.read("documents", SHARDS[1]).is_empty()
    assert pl.read_parquet(home / "store" / "tables" / "packed_sequences" / f"{SHARDS[1]}.parquet").is_empty()
