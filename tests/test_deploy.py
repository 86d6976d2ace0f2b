"""The files of deploy/ are what their readers accept, and they name what there is."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from uuid import uuid4

import pytest
import yaml

from el_resources.configuration.environment import OTHER_VARIABLES
from el_resources.settings import Settings
from tests.support.cluster import BIN, RayCluster, wait_for

needs_cluster = pytest.mark.services  # the extra `cluster`

DEPLOY = Path(__file__).parents[1] / "deploy"
JOBS = ("observe_models", "build_index", "build_sequences", "score_samples", "select_samples", "build_reports")


@needs_cluster
def test_ray_accepts_the_cluster_configuration() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = prepare_config(yaml.safe_load((DEPLOY / "cluster.yaml").read_text()))
    validate_config(cluster)
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_ray_is_started_with_its_token_or_not_at_all() -> None:
    cluster = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    starts = [cluster[f"{node}_start_ray_commands"][-1] for node in ("head", "worker")]
    for command in starts:
        before, _, _ = command.partition("ray start")
        assert before.endswith('test -n "$RAY_AUTH_TOKEN" && export RAY_AUTH_MODE=token && ')
    passed = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())["run_launcher"]["config"]["ray"]["env_vars"]
    assert not [name for name in passed if name.startswith("RAY_AUTH")], "Ray shows a job's variables"


@needs_cluster
@pytest.mark.parametrize(
    "tag",
    [
        {"env_vars": ["EL_TRUST_REMOTE_CODE=true"]},
        {"num_cpus": 1, "runtime_env": {"py_modules": ["https://evil.example/code.zip"]}},
        {"address": "http://evil.example:8265"},
        ["num_cpus"],
    ],
    ids=str,
)
def test_a_run_brings_no_code_and_no_variables_to_the_cluster(tag: Any) -> None:
    from el_assets.operations.run_needs import RAY_TAG
    from el_assets.server.ray_launcher import refuse_more_than_resources

    run_id = str(uuid4())
    with pytest.raises(ValueError, match=r"which only deploy/dagster.yaml may give; a run may ask for num_cpus"):
        refuse_more_than_resources(run_id, {RAY_TAG: json.dumps(tag)})
    refuse_more_than_resources(run_id, {RAY_TAG: json.dumps({"num_cpus": 2, "num_gpus": 1})})
    with pytest.raises(ValueError, match="UUID"):
        refuse_more_than_resources("'; touch here; '", {})


@needs_cluster
def test_a_job_without_the_token_is_refused_by_ray(tmp_path: Path) -> None:
    """A head as deploy/cluster.yaml starts it; who has no token, or a wrong one, runs nothing and sees nothing."""
    ray, made = RayCluster(dict(os.environ)), tmp_path / "made by a job"
    job = {"entrypoint": f"touch {str(made)!r}"}
    try:
        ray.start_head()
        for token, status in (("", 401), ("0" * 64, 403)):
            for path, body in (("/api/jobs/", job), ("/api/jobs/", None), ("/api/v0/actors", None)):
                with pytest.raises(HTTPError) as refused:
                    ray.ask(path, body, token=token)
                assert refused.value.code == status
        others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        submit = [BIN / "ray", "job", "submit", "--no-wait", "--address", ray.address, "--", "touch", str(made)]
        bare = {**others, "RAY_AUTH_MODE": "disabled"}
        assert subprocess.run(submit, env=bare, capture_output=True).returncode != 0
        assert not made.exists()
        ray.ask("/api/jobs/", job)
        wait_for("the job of who has the token", made.exists, 90, ray.log("head"))
    finally:
        ray.stop()


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
