"""A launchpad's values, sent to Dagster's GraphQL over the code location that workspace.yaml names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_graphql.test.utils import define_out_of_process_context, execute_dagster_graphql

WORKSPACE = Path(__file__).parents[2] / "workspace.yaml"
JOB = {"repositoryLocationName": "entropylong", "repositoryName": "__repository__", "pipelineName": "observe_models"}
LAUNCH = """mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
              __typename ... on LaunchRunSuccess { run { runConfig } } ... on PythonError { message }
              ... on RunConfigValidationInvalid { errors { message } } } }"""
DESCRIPTIONS = """query ($job: PipelineSelector!) { runConfigSchemaOrError(selector: $job) { ... on RunConfigSchema {
                    allConfigTypes { ... on CompositeConfigType { fields { name description } } } } } }"""


class Launchpad:
    """The repository's code location as a webserver loads it, with the instance of its runs."""

    def __init__(self, context: Any, instance: dg.DagsterInstance) -> None:
        self.context, self.instance = context, instance

    def ask(self, query: str, **variables: Any) -> Any:
        return execute_dagster_graphql(self.context, query, variables).data

    def launch(self, **values: Any) -> Any:
        params = {"selector": JOB, "mode": "default", "runConfigData": run_config(values)}
        return self.ask(LAUNCH, params=params)["launchPipelineExecution"]


def run_config(values: dict[str, Any]) -> dict[str, Any]:
    return {"resources": {"settings": {"config": values}}}


@pytest.fixture(scope="module")
def launchpad() -> Iterator[Launchpad]:
    # Runs that come about wait for a daemon that is not there.
    queue = {"run_coordinator": {"module": "dagster.core.run_coordinator", "class": "QueuedRunCoordinator"}}
    with (
        dg.instance_for_test(overrides=queue) as instance,
        define_out_of_process_context(str(WORKSPACE), None, instance) as context,
    ):
        yield Launchpad(context, instance)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epsilon": 2}, "epsilon (EL_EPSILON) = 2.0: Input should be less than 1"),
        ({"alpha": -11}, "alpha (EL_ALPHA) = -11.0: Input should be greater than or equal to -10"),
        (
            {"root_tokens_min": 700},
            "root_tokens_max=640 is below root_tokens_min=700; raise the one",
        ),
        ({"profile": "paper"}, "set EL_PROFILE=paper (now reference) in the environment"),
        (
            {"store": "/elsewhere"},
            "store=/elsewhere cannot be given at launch: it is where tables are read, written and removed; set "
            "EL_STORE=/elsewhere (now data) in the environment and restart Dagster",
        ),
        ({"store": ""}, "store='' cannot be given at launch"),
        ({"hub_endpoint": "http://127.0.0.1:9"}, "it is sent HF_TOKEN; set EL_HUB_ENDPOINT=http://127"),
        (
            {"trust_remote_code": True},
            "lets code that ships with a model run; set EL_TRUST_REMOTE_CODE",
        ),
        (
            {"corpus": "jsonl:http://me:hunter2@127.0.0.1:9/a.jsonl?sig=hunter3"},
            "corpus=jsonl:http://127.0.0.1:9/a.jsonl cannot be given at launch: it has credentials",
        ),
        ({"seed": None}, "seed (EL_SEED) = None: Input should be a valid integer"),
        ({"seed": "x"}, 'Invalid scalar at path root:resources:settings:config:seed. Value "x"'),
        ({"criterion": "x"}, "Value at path root:resources:settings:config:criterion not in enum type"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)
def test_a_wrong_value_is_refused_in_words_and_no_run_comes_about(
    launchpad: Launchpad, values: dict[str, Any], words: str
) -> None:
    before = launchpad.instance.get_runs_count()
    refused = launchpad.launch(**values)
    (message,) = [error["message"] for error in refused.get("errors", [refused])]
    assert words in message
    assert "hunter" not in message
    assert launchpad.instance.get_runs_count() == before


def test_a_value_within_its_bounds_is_launched(launchpad: Launchpad) -> None:
    before = launchpad.instance.get_runs_count()
    launched = launchpad.launch(epsilon=0.31)
    assert launched["__typename"] == "LaunchRunSuccess", launched
    assert launched["run"]["runConfig"] == run_config({"epsilon": 0.31})
    assert launchpad.instance.get_runs_count() == before + 1


@pytest.mark.parametrize("setting", ["corpus", "text_column", "separator", "seed", "force"])
def test_a_launch_reads_no_variable_of_the_environment(launchpad: Launchpad, setting: str) -> None:
    """Dagster's own types would: a secret of the environment would be a value, and shown in the run's messages."""
    refused = launchpad.launch(**{setting: {"env": "PATH"}})
    assert refused["__typename"] == "RunConfigValidationInvalid", refused


def test_what_the_environment_has_already_may_be_given(launchpad: Launchpad) -> None:
    launched = launchpad.launch(store="data", hub_endpoint="", trust_remote_code=False)
    assert launched["__typename"] == "LaunchRunSuccess", launched


def test_the_launchpad_shows_bounds(launchpad: Launchpad) -> None:
    types = launchpad.ask(DESCRIPTIONS, job=JOB)["runConfigSchemaOrError"]["allConfigTypes"]
    shown = {field["name"]: field["description"] for found in types for field in found.get("fields", [])}
    assert shown["epsilon"].endswith(" 40 %. Above -1, below 1.")
    assert shown["chunk_tokens"].endswith(" At least 8, at most 8,192.")
    assert shown["cores_per_run"].endswith(" Above 0.")
