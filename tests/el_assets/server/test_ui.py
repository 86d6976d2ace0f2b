"""`python -m el_assets ui` before it serves anything."""

import socket
from pathlib import Path

import pytest

from el_assets.__main__ import main
from el_assets.command_line import flags_of, parser


def test_bad_settings_are_told_before_a_server_starts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path))
        patch.setenv("EL_EPSILON", "2")
        assert main(["ui"]) == 2
    assert "epsilon (EL_EPSILON)" in capsys.readouterr().err


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
