"""`python -m el_assets ui` before it serves anything."""

import gzip
import socket
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.testclient import TestClient

from el_assets.__main__ import main
from el_assets.cli.command_line import flags_of, parser
from el_assets.server.ui import GuardedWebserver


@dg.job
def a_job() -> None:
    """Only its runs matter."""


def test_bad_settings_are_told_before_a_server_starts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path))
        patch.setenv("EL_EPSILON", "2")
        assert main(["ui"]) == 2
    assert "epsilon (EL_EPSILON)" in capsys.readouterr().err


def test_a_debug_file_of_no_run_is_not_found_and_no_trace_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context,
    ):
        pages = TestClient(GuardedWebserver(context, []).create_asgi_app(), base_url="http://localhost")
        answer = pages.get("/download_debug/x")
        assert (answer.status_code, answer.text) == (404, "there is no run 'x'\n")
        run = instance.create_run_for_job(a_job)
        assert gzip.decompress(pages.get(f"/download_debug/{run.run_id}").content)
    assert "Traceback" not in caplog.text


def test_names_are_given_by_flag_or_variable() -> None:
    assert flags_of(parser().parse_args(["ui", "--hosts", "ui.lab,ui.lab:8443"])) == {
        "EL_UI_HOSTS": "ui.lab,ui.lab:8443"
    }
    assert flags_of(parser().parse_args(["ui"])) == {}


def test_a_port_that_is_taken_is_told_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path))
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"error: port {port} of 127.0.0.1 is taken; give another with --port\n"
    assert list(tmp_path.iterdir()) == []
