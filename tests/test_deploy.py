"""The files of deploy/ are what their readers accept, and they name what there is."""

import re
from pathlib import Path

import pytest
import yaml

from el_resources.environment import OTHER_VARIABLES
from el_resources.settings import Settings

needs_cluster = pytest.mark.services  # the extra `cluster`

DEPLOY = Path(__file__).parents[1] / "deploy"
JOBS = ("observe_models", "build_index", "build_sequences", "score_samples", "select_samples", "build_reports")


@needs_cluster
def test_ray_accepts_the_cluster_configuration() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = prepare_config(yaml.safe_load((DEPLOY / "cluster.yaml").read_text()))
    validate_config(cluster)
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])


@needs_cluster
def test_dagster_accepts_the_instance_and_launches_with_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the connection, which the storage makes when it is first used."""
    from dagster._core.instance.ref import InstanceRef
    from dagster_ray import RayRunLauncher

    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql+psycopg2://dagster:secret@db:5432/dagster")
    monkeypatch.setenv("RAY_JOBS_ADDRESS", "http://head:8265")
    monkeypatch.setenv("EL_RUNS_AT_ONCE", "5")
    (tmp_path / "dagster.yaml").write_bytes((DEPLOY / "dagster.yaml").read_bytes())
    instance = InstanceRef.from_dir(str(tmp_path))
    launcher = instance.run_launcher
    assert isinstance(launcher, RayRunLauncher)
    assert (launcher.address, launcher.num_cpus, launcher.num_gpus) == ("http://head:8265", 1, None)
    assert instance.run_coordinator.get_run_queue_config().max_concurrent_runs == 5  # type: ignore[union-attr]
    assert instance.settings["run_retries"]["max_retries"] == 2


def test_runs_get_every_setting() -> None:
    config = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    passed = config["run_launcher"]["config"]["ray"]["env_vars"]
    named = {name for name in passed if name.startswith("EL_")} - OTHER_VARIABLES
    assert named == {f"EL_{name.upper()}" for name in Settings.model_fields}


def test_the_environment_names_settings_and_what_the_instance_asks_for() -> None:
    lines = (DEPLOY / "environment.example").read_text().splitlines()
    given = dict(
        re.fullmatch(r"(\w+)=('.*'|\S+)(?: #.*)?", line).groups() for line in lines if re.match(r"[A-Z]", line)
    )  # type: ignore[union-attr]
    settings = {name: text.strip("'") for name, text in given.items() if name.startswith("EL_")}
    Settings.load(settings)
    assert {"EL_EXECUTION", "EL_RUNS_AT_ONCE"} == OTHER_VARIABLES & set(settings)
    asked = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()))
    assert asked <= set(given)


@needs_cluster
def test_the_jobs_ask_for_gpus_where_they_read_a_model() -> None:
    from dagster_ray.core.run_launcher import RayLauncherConfig

    from el_assets.workspace import build_definitions

    defs = build_definitions(Settings.load({}), on_ray=True)
    asked = {job.name: RayLauncherConfig.from_tags(job.tags).num_gpus for job in map(defs.resolve_job_def, JOBS)}
    assert asked == {
        "observe_models": None,
        "build_index": None,
        "build_sequences": 1.0,
        "score_samples": 1.0,
        "select_samples": None,
        "build_reports": None,
    }
