"""The last words of a command that failed, where its trace is, and readers that stop reading."""

import os
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from el_assets.__main__ import main
from el_assets.tables import failures
from tests.conftest import library_documents, write_json_lines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command over two shards in a home of its own."""
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    for name in ("a", "b"):
        write_json_lines(tmp_path / "corpus" / f"{name}.jsonl", library_documents(2))
    monkeypatch.chdir(tmp_path)
    told = {"DAGSTER_HOME": str(tmp_path), "EL_CORPUS": "jsonl:corpus", "EL_STORE": "store"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: main([*arguments])


def the_trace(folder: Path) -> str:
    (file,) = (folder / failures.FOLDER).iterdir()
    return file.read_text()


def test_a_failed_run_ends_in_our_outermost_message_and_the_trace_is_in_a_file(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--select", "index", "--shards", "a.jsonl") == 0
    capsys.readouterr()
    (tmp_path / "store/tables/context_chunks").rename(tmp_path / "store/tables/elsewhere")
    (tmp_path / "store/tables/context_chunks").write_text("no folder")  # a table can be neither read nor put there
    assert command("run", "--select", "index") == 1
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(f"the run failed; the whole trace is in {tmp_path / failures.FOLDER}")
    assert rest[-1].startswith("  context_chunks")
    assert "a.jsonl" in rest[-1]
    assert str(tmp_path / "store") in rest[-1] or "'store'" in rest[-1] or "store/tables" in rest[-1]
    assert not any("Traceback" in line or line.lstrip().startswith("File ") for line in rest)
    assert "Stack Trace" in the_trace(tmp_path)


def test_an_error_that_nobody_foresaw_names_its_kind_place_and_shard(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from el_assets.corpus import assets

    def broken(*_: object, **__: object) -> None:
        {}["no such key"]

    monkeypatch.setattr(assets, "documents_table", broken)
    assert command("run", "--select", "index") == 1
    _, *rest = capsys.readouterr().err.splitlines()
    assert len(rest) == 1
    assert rest[0].startswith("  documents of 'a.jsonl': unforeseen KeyError: 'no such key' (")
    assert f"{Path(__file__).name}, line " in rest[0]
    assert "in broken" in the_trace(tmp_path)


def test_a_command_without_runs_keeps_the_trace_too_and_shows_it_on_request(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from el_assets.cli import commands

    def broken(*_: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(commands, "print_passed_over", broken)
    assert command("register") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: unforeseen ZeroDivisionError: odd (")
    assert len(said.splitlines()) == 2
    assert "Traceback" in the_trace(tmp_path)
    assert command("register", "--debug") == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "unforeseen ZeroDivisionError" in said.splitlines()[-2]


def test_a_trace_that_cannot_be_written_is_printed(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dagster").write_text("a file, not a folder")
    assert "cannot be written" in failures.trace_kept("x", "the trace", on_screen=False)
    assert capsys.readouterr().err == "the trace\n"


def test_the_newest_traces_stay_and_files_of_others_are_left(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from el_assets.cli import commands

    def broken(*_: object) -> None:
        raise ZeroDivisionError("odd")

    folder = tmp_path / failures.FOLDER
    folder.mkdir(parents=True)
    others = ["notes.txt", "run-mine.txt", "register-20260101-000000-7.txt.bak", "register-20260101.txt"]
    runs = [f"run-{uuid.UUID(int=number)}.txt" for number in range(failures.TRACES_KEPT)]
    for age, name in enumerate([*others, "status-20260101-000000-7.txt", *runs]):
        (folder / name).write_text("a trace")
        os.utime(folder / name, (1e9 + age, 1e9 + age))
    monkeypatch.setattr(commands, "print_passed_over", broken)
    assert command("register") == 1
    left = {path.name for path in folder.iterdir()}
    (newest,) = left - {*others, *runs}
    assert newest.startswith("register-2")
    assert left == {*others, *runs[1:], newest}


def test_the_outermost_message_of_ours_is_told_whatever_is_around_it() -> None:
    from el_resources.configuration.environment import read_env_file

    (folder := Path("broken")).mkdir()
    (folder / ".env").write_text("A\n")
    try:
        try:
            read_env_file(folder / ".env")
        except ValueError as error:
            raise RuntimeError("a library's words around ours") from error
    except RuntimeError as error:
        told = failures.told_of(error)
    assert told.is_foreseen
    assert told.words.endswith("'A' is not NAME=VALUE; repair or remove it")


def test_our_warnings_are_a_line_and_those_of_libraries_are_shown_with_debug_only(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from el_assets.cli import commands

    def of_a_library(*_: object) -> None:
        warnings.warn("a library's own words", stacklevel=2)

    (Path("pool")).mkdir()
    Path("pool/q.jsonl").write_text("{}\n")
    told = {"EL_CORPUS": "python-docs:", "EL_INSTRUCTIONS": "jsonl:pool", "EL_TEXT_COLUMN": "body"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(commands, "print_passed_over", of_a_library)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert command("register") == 0
        ours = "warning: text column 'body' is not used: python-docs: has no columns"
        assert set(capsys.readouterr().err.splitlines()) == {ours}
        with pytest.warns(UserWarning) as shown:
            assert command("register", "--debug") == 0
    assert {"a library's own words", ours.removeprefix("warning: ")} <= {str(one.message) for one in shown}


@pytest.mark.parametrize("arguments", [["settings"], ["status"]])
def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(
        [sys.executable, "-m", "el_assets", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(tmp_path)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (found.returncode, found.stderr) == (141, "")


def test_a_servers_definitions_take_the_configuration_of_a_commands_run(
    command: Callable[..., int], tmp_path: Path
) -> None:
    import dagster as dg

    from el_assets.workspace import build_definitions
    from el_resources.settings import Settings

    assert command("run", "--select", "index") == 0
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        (run,) = instance.get_runs(dg.RunsFilter(job_name="build_index"))
    job = build_definitions(Settings.load({})).resolve_job_def("build_index")
    assert dg.validate_run_config(job, dict(run.run_config))
