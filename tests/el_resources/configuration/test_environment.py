"""Layers of variables, and lines that give variables back."""

import io
import os
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from el_resources.configuration.environment import Environment, as_env_lines, read_env_file, settings_in


def test_a_flag_wins_over_the_file_and_the_file_over_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EL_ALPHA", "EL_SEED", "EL_STORE"):
        monkeypatch.setenv(name, "1")
    (tmp_path / ".env").write_text("EL_ALPHA=2\n# a comment\nEL_STORE='a b'\n")
    found = Environment.read({"EL_STORE": "flag"})
    assert {name: found.values()[name] for name in ("EL_ALPHA", "EL_SEED", "EL_STORE")} == {
        "EL_ALPHA": "2",
        "EL_SEED": "1",
        "EL_STORE": "flag",
    }
    origins = [found.origin(name) for name in ("EL_ALPHA", "EL_SEED", "EL_STORE", "EL_EPSILON")]
    assert origins == [".env", "shell", "flag", ""]
    assert found.without_flags().values()["EL_STORE"] == "a b"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert read_env_file(tmp_path / ".env") == {}
    (tmp_path / ".env").write_bytes(b"EL_STORE=\xff\xfe\n")
    with pytest.raises(ValueError, match=r"\.env cannot be read \(.*; repair it, or remove it"):
        read_env_file(tmp_path / ".env")


@pytest.mark.parametrize("line", ["EL_ALPHA 1.25", "EL_ALPHA: 1.25", "EL_CRITERION", 'EL_CORPUS="jsonl:c'])
def test_a_line_that_gives_no_value_is_refused(tmp_path: Path, line: str) -> None:
    """dotenv passes over it, and the default would count."""
    (tmp_path / ".env").write_text(f"EL_SEED=5\n{line}\n")
    with pytest.raises(ValueError, match=rf"\.env, line 2: '{line}' is not NAME=VALUE"):
        read_env_file(tmp_path / ".env")


def test_a_folder_or_a_dead_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    for name in (".env", "dead"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read_env_file(tmp_path / name)


def test_the_case_of_a_name_counts() -> None:
    with pytest.raises(ValueError, match=r"el_alpha \(did you mean EL_ALPHA\?\)"):
        settings_in({"el_alpha": "1"}, {"alpha"})


def test_what_is_no_setting_reaches_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EL_RUNS_AT_ONCE", "HF_TOKEN"):
        monkeypatch.setenv(name, "shell")
    monkeypatch.delenv("EL_ALPHA", raising=False)
    Environment(file={"EL_RUNS_AT_ONCE": "5", "HF_TOKEN": "file", "EL_ALPHA": "1"}).enter()
    assert (os.environ["EL_RUNS_AT_ONCE"], os.environ["HF_TOKEN"], "EL_ALPHA" in os.environ) == ("5", "file", False)


def test_variables_of_deployments_are_no_settings() -> None:
    assert settings_in({"EL_EXECUTION": "ray", "PATH": "x", "EL_ALPHA": "1"}, {"alpha"}) == {"alpha": "1"}


@given(value=st.text(st.characters(exclude_characters="$\r\0", codec="utf-8"), min_size=1))
def test_lines_for_the_file_give_the_value_back(value: str) -> None:
    (line,) = as_env_lines({"EL_CORPUS": value})
    assert dotenv_values(stream=io.StringIO(line + "\n")) == {"EL_CORPUS": value}
