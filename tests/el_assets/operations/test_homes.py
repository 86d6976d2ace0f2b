"""Tests of opening a new DAGSTER_HOME: several commands at once leave its databases whole."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from filelock import FileLock

from el_assets.operations import homes

ROOT = Path(__file__).parents[3]
OURS = ("-m", "el_assets", "register")
DAGSTERS = ("-m", "dagster", "instance", "info")  # opens the instance as `dg launch` and the daemon do


@pytest.fixture
def new_home(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    (tmp_path / "documents.jsonl").write_text('{"text": "a document"}\n')
    (tmp_path / "samples.jsonl").write_text('{"context": "a b", "instruction": "c", "response": "d"}\n')
    return tmp_path


def test_five_commands_at_once_ours_and_dagsters_leave_the_databases_of_a_new_home_whole(new_home: Path) -> None:
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(new_home),
        "PYTHONPATH": str(ROOT),
        "EL_CORPUS": f"jsonl:{new_home / 'documents.jsonl'}",
        "EL_INSTRUCTIONS": f"jsonl:{new_home / 'samples.jsonl'}",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=new_home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in (OURS, OURS, DAGSTERS, DAGSTERS, DAGSTERS)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 5, outputs
    databases = sorted((new_home / ".dagster" / "storage").rglob("*.db"))
    assert {path.name for path in databases} >= {"runs.db", "schedules.db", "index.db"}
    heads = {path.name: sqlite3.connect(path).execute("select count(*) from alembic_version") for path in databases}
    assert {name: found.fetchone()[0] for name, found in heads.items()} == dict.fromkeys(heads, 1)


def test_a_home_that_another_process_never_finishes_opening_is_named(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "LONGEST_WAIT_SECONDS", 0.1)
    (new_home / ".dagster").mkdir()
    held = FileLock(new_home / homes.LOCK)
    with (
        held,
        pytest.raises(ValueError, match=r"another process has been opening .*opening\.lock"),
        homes.opening(new_home),
    ):
        pass


def test_dagster_itself_waits_for_whoever_is_making_the_databases(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "LONGEST_WAIT_SECONDS", 0.1)
    monkeypatch.chdir(new_home)
    (new_home / ".dagster" / "storage").mkdir(parents=True)
    held = FileLock(new_home / ".dagster" / "storage" / homes.LOCK.name)
    with held, pytest.raises(ValueError, match=r"another process has been opening Dagster's databases"):
        dg.DagsterInstance.from_config(str(new_home))
    with dg.DagsterInstance.from_config(str(new_home)) as instance:
        assert instance.get_runs_count() == 0
