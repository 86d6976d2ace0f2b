"""Runs from the shell as the web server shows them, asked over the code location that workspace.yaml names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster_graphql.test.utils import define_out_of_process_context, execute_dagster_graphql

from el_assets.definitions import defs
from el_assets.operations.failed_runs import PROCESS_TAG
from el_assets.operations.in_process import LOCATION, code_location, execute_here
from tests.conftest import QUIET

WORKSPACE = str(Path(__file__).parents[3] / "workspace.yaml")
JOB = {"repositoryLocationName": "entropylong", "repositoryName": "__repository__", "pipelineName": "observe_models"}
HISTORY = """query ($job: PipelineSelector!) { pipelineOrError(params: $job) { ... on Pipeline {
               runs { runId tags { key } repositoryOrigin { repositoryLocationName } } } } }"""


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    retries = {"run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}}
    with dg.instance_for_test(overrides=retries) as instance:
        yield instance


def run(instance: dg.DagsterInstance, job: str, **more: Any) -> dg.JobExecutionResult:
    tags = {PROCESS_TAG: "here:1"}
    return execute_here(instance, defs.resolve_job_def(job), tags=tags, run_config={"loggers": QUIET}, **more)


def test_the_place_of_the_definitions_is_that_of_workspace_yaml() -> None:
    (origin,) = location_origins_from_yaml_paths([WORKSPACE])
    assert origin.location_name == LOCATION
    assert code_location().code_location_origin.get_id() == origin.get_id()


def test_a_run_is_in_its_jobs_history_with_nothing_before_it(instance: dg.DagsterInstance) -> None:
    done = run(instance, "observe_models")
    assert done.success
    with define_out_of_process_context(WORKSPACE, None, instance) as context:
        (shown,) = execute_dagster_graphql(context, HISTORY, {"job": JOB}).data["pipelineOrError"]["runs"]
    assert shown["runId"] == done.run_id
    assert shown["repositoryOrigin"] == {"repositoryLocationName": "entropylong"}, "the timeline leaves out others"
    assert {tag["key"] for tag in shown["tags"]} == {"dagster/max_retries", "dagster/code_location"}, (
        "as the server's runs"
    )
    assert done.dagster_run.tags[PROCESS_TAG] == "here:1", "it is kept, for those who look for lost runs"


def test_only_the_chosen_assets_are_made(instance: dg.DagsterInstance) -> None:
    done = run(instance, "observe_models", assets=[dg.AssetKey("short_model")])
    observed = {event.asset_key.to_user_string() for event in done.get_asset_observation_events() if event.asset_key}
    assert observed == {"short_model"}


def test_a_lost_run_is_not_repeated_with_other_settings(instance: dg.DagsterInstance) -> None:
    """The daemon retries runs that were lost; it does not have what the shell had."""
    lost = instance.create_run_for_job(
        defs.resolve_job_def("observe_models"),
        tags=dict(run(instance, "observe_models").dagster_run.tags),
        status=dg.DagsterRunStatus.STARTED,
    )
    instance.report_run_failed(lost, "its process is gone")
    ended = instance.get_run_by_id(lost.run_id)
    assert ended is not None and ended.tags["dagster/will_retry"] == "false"
