"""A package of an extra that is not installed is named with the `pip install` that brings it."""

import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest

from el_assets.__main__ import main
from el_assets.cli import before_a_run
from el_assets.operations import homes

ROOT = Path(__file__).parents[2]


def without(*names: str) -> Callable[[str], ModuleSpec | None]:
    return lambda name: None if name in names else find_spec(name)


def test_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/dagster.yaml").write_bytes((ROOT / "deploy/dagster.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EL_EXECUTION", "ray")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(homes, "find_spec", without("dagster_ray", "ray", "dagster_postgres", "psycopg2"))
    assert main(["backfill"]) == 2
    said = capsys.readouterr().err
    assert "dagster.yaml needs dagster_postgres, dagster_ray, psycopg2, ray" in said
    assert said.endswith("install them with `pip install 'entropylong[cluster]'`\n")
    monkeypatch.setattr(homes, "find_spec", lambda name: ModuleSpec(name, None))
    assert main(["backfill"]) == 2
    assert "needs the variables DAGSTER_POSTGRES_URL, EL_RUNS_AT_ONCE, RAY_JOBS_ADDRESS" in capsys.readouterr().err


def test_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("EL_ENCODER", "sentence-transformers:BAAI/bge-base-en-v1.5")
    monkeypatch.setattr(before_a_run, "find_spec", without("sentence_transformers"))
    assert main(["run"]) == 2
    assert "install it with `pip install 'entropylong[encoders]'`" in capsys.readouterr().err


def test_the_script_of_the_pictures() -> None:
    code = "import runpy, sys; sys.modules['playwright'] = None; runpy.run_path('docs/make_pictures.py')"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stderr
    assert said.startswith("playwright is not installed: pip install 'entropylong[services]'")
