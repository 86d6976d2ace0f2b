"""Signals at any stage of a command: one line, status 128 + n, and nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from el_assets.cli.interrupts import LINE, SIGNALS
from tests.conftest import library_documents, write_json_lines

ROOT = Path(__file__).parents[3]
ENDED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    for name in range(4):
        write_json_lines(tmp_path / "corpus" / f"{name}.jsonl", library_documents(8, offset=8 * name))
    return tmp_path


def started(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command in a process of its own, and in a process group of its own."""
    settings = {"EL_CORPUS": f"jsonl:{home / 'corpus'}", "EL_STORE": "store", "DAGSTER_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "el_assets", *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )


def interrupted(command: subprocess.Popen[str], number: int) -> None:
    """Send the signal, and see that the command ends as it should and leaves no process."""
    command.send_signal(number)
    _, said = command.communicate(timeout=60)
    assert (command.returncode, said.split("\r")[-1].strip()) == (128 + number, LINE)
    with pytest.raises(ProcessLookupError):
        os.killpg(command.pid, 0)


@pytest.mark.parametrize("number", SIGNALS)
def test_while_modules_are_imported(home: Path, number: int) -> None:
    command = started(home, "status")
    for _ in range(500):
        if Path(f"/proc/{command.pid}/maps").read_text().count("pydantic_core"):  # dagster is on its way
            break
        time.sleep(0.01)
    interrupted(command, number)


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 0.3), (signal.SIGTERM, 1.5), (signal.SIGHUP, 2)])
def test_in_a_run_which_then_is_not_under_way_any_more(home: Path, number: int, seconds: float) -> None:
    command = started(home, "run", "--select", "index,entropylong")
    assert command.stdout
    command.stdout.readline()  # the shards are registered, the first run begins
    time.sleep(seconds)
    interrupted(command, number)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert all(run.status in ENDED for run in instance.get_runs())
    assert list(home.rglob("*.tmp*")) == []
    status = started(home, "status", "--json")
    assert '"done": false' in status.communicate()[0]
    assert status.returncode == 1


def test_a_signal_that_dagster_forgets_ends_the_command_after_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from el_assets.cli.interrupts import Interrupted, Interrupts

    def forget(*_: Any) -> None: ...

    with Interrupts() as interrupts:
        signal.signal(signal.SIGINT, forget)
        assert not interrupts.came
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            interrupts.raise_if_came()
        assert interrupts.came


def test_handlers_are_put_back() -> None:
    from el_assets.cli.interrupts import Interrupts

    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_command_that_ignores_hangups_goes_on() -> None:
    from el_assets.cli.interrupts import Interrupts

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupts.came
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_changes_nothing(home: Path) -> None:
    command = started(home, "run", "--select", "index,entropylong")
    assert command.stdout
    command.stdout.readline()
    time.sleep(1)
    command.send_signal(signal.SIGINT)
    time.sleep(0.2)
    if command.poll() is None:
        command.send_signal(signal.SIGTERM)
    _, said = command.communicate(timeout=60)
    assert (command.returncode, said.split("\r")[-1].strip()) == (130, LINE)
