"""Runs that execute in this process and appear in the UI like runs of its server.

Dagster's own `execute_in_process` does not record the code location of a run. The timeline, the history of the job and
the sensors that watch runs leave out runs without one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.snap import snapshot_from_execution_plan
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

# The code location in workspace.yaml, its module, and the name that Dagster gives to the repository of a `Definitions`.
LOCATION, MODULE, REPOSITORY = "entropylong", "el_assets.definitions", "__repository__"
# The daemon would retry a lost run with the settings of its own environment, not with those of the command.
NO_RETRY = {"dagster/max_retries": "0"}


def execute_here(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    *,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
    assets: Sequence[dg.AssetKey] = (),
    of_shards: bool = False,
) -> dg.JobExecutionResult:
    """Execute a job in this process, and return its result; a failed step ends the run without an exception.

    Args:
        assets: assets of the job to make; all if none is given.
        of_shards: leave out assets and checks without partitions, which are over all shards.
    """
    chosen = frozenset(assets) or None
    checks: frozenset[dg.AssetCheckKey] | None = None
    if of_shards:
        graph = job.asset_layer.asset_graph
        chosen = frozenset(
            key for key in chosen or job.asset_layer.selected_asset_keys if graph.get(key).partitions_def
        )
        checks = frozenset(
            key
            for key in graph.get_check_keys_for_assets(chosen)
            if key in graph.asset_check_keys and graph.get(key).partitions_def
        )
    subset = job.get_subset(asset_selection=chosen, asset_check_selection=checks) if chosen else job
    all_tags = {**job.run_tags, **NO_RETRY, **tags}
    run = _created(instance, subset, run_config, all_tags, chosen, checks)
    return execute_run(InMemoryJob(job), run, instance)


def _created(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
    assets: frozenset[dg.AssetKey] | None,
    checks: frozenset[dg.AssetCheckKey] | None,
) -> dg.DagsterRun:
    """Create the run of a job or of its subset, like `create_run_for_job`, which cannot select checks."""
    reference = instance.get_ref() if instance.is_persistent else None
    plan = create_execution_plan(job, run_config=run_config, instance_ref=reference, tags=tags)
    return instance.create_run(
        job_name=job.name,
        run_id=None,
        run_config=run_config,
        status=None,
        tags=tags,
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=plan.step_keys_to_execute,
        execution_plan_snapshot=snapshot_from_execution_plan(plan, job.get_job_snapshot_id()),
        job_snapshot=job.get_job_snapshot(),
        parent_job_snapshot=job.get_parent_job_snapshot(),
        asset_selection=assets,
        asset_check_selection=checks,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=code_location().get_job_origin(job.name),
        job_code_origin=None,
        asset_graph=job.asset_layer.asset_graph,
    )


def code_location() -> RemoteRepositoryOrigin:
    """Return the code location of the definitions, as the server reads it from workspace.yaml."""
    return RemoteRepositoryOrigin(
        code_location_origin=ManagedGrpcPythonEnvCodeLocationOrigin(
            loadable_target_origin=LoadableTargetOrigin(module_name=MODULE), location_name=LOCATION
        ),
        repository_name=REPOSITORY,
    )
