"""Runs that execute in this process and show in the UI like those of its server.

Dagster's own `execute_in_process` leaves out of which code location a run is. The timeline, the job's history and the
sensors that watch runs ask for it, so that such runs are in none of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

# The code location that workspace.yaml names, and the name that Dagster gives to what one `Definitions` holds.
LOCATION, MODULE, REPOSITORY = "entropylong", "el_assets.definitions", "__repository__"
# Dagster's daemon would repeat a run that was lost with the settings of its own environment.
NO_RETRY = {"dagster/max_retries": "0"}


def execute_here(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    *,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
    assets: Sequence[dg.AssetKey] = (),
) -> dg.JobExecutionResult:
    """Execute a job in this process; a step that fails ends the run and is told by the result.

    Args:
        assets: those of the job to make; all if none is given.
    """
    chosen = frozenset(assets) or None
    run = instance.create_run_for_job(
        job_def=job.get_subset(asset_selection=chosen) if chosen else job,
        run_config=run_config,
        tags={**job.run_tags, **NO_RETRY, **tags},
        asset_selection=chosen,
        remote_job_origin=code_location().get_job_origin(job.name),
    )
    return execute_run(InMemoryJob(job), run, instance)


def code_location() -> RemoteRepositoryOrigin:
    """The place of the definitions, as the server knows it from workspace.yaml."""
    return RemoteRepositoryOrigin(
        code_location_origin=ManagedGrpcPythonEnvCodeLocationOrigin(
            loadable_target_origin=LoadableTargetOrigin(module_name=MODULE), location_name=LOCATION
        ),
        repository_name=REPOSITORY,
    )
