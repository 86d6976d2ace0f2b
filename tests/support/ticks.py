"""Ticks of the workspace's sensors and schedules, and what Dagster's daemon does with their answers."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from el_assets.definitions import defs
from tests.conftest import Workspace


def sensor_tick(workspace: Workspace, sensor: str = "follow_corpus", cursor: str | None = None, **changes: Any) -> Any:
    """A tick's answer; nothing of it is done yet."""
    resources = {"settings": workspace.loaded(**changes)}
    with dg.build_sensor_context(instance=workspace.instance, cursor=cursor, resources=resources) as context:
        return defs.resolve_sensor_def(sensor).evaluate_tick(context)


def follow(workspace: Workspace, sensor: str = "follow_corpus", cursor: str | None = None, **changes: Any) -> Any:
    """A tick's answer, done as the daemon does it: shards are registered, then the runs execute."""
    answer = sensor_tick(workspace, sensor, cursor, **changes)
    for request in answer.dynamic_partitions_requests or []:
        workspace.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    for request in answer.run_requests or []:
        execute(workspace, "remove_shards", request)
    return answer


def follow_up(workspace: Workspace, sensor: str, run: dg.DagsterRun) -> list[dg.RunRequest]:
    """Return the requests of a sensor that watches runs after this one has succeeded, and its log."""
    events = workspace.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_SUCCESS)
    with dg.build_run_status_sensor_context(
        sensor_name=sensor,
        dagster_event=events[0].get_dagster_event(),
        dagster_instance=workspace.instance,
        dagster_run=run,
        resources={"settings": workspace.loaded()},
    ) as context:
        answer = defs.resolve_sensor_def(sensor)(context)
    return answer if isinstance(answer, list) else []


def schedule_tick(workspace: Workspace, schedule: str, **changes: Any) -> Any:
    """A tick's answer."""
    # Left open, it would be closed by the garbage collector, in the middle of another test's use of an instance.
    with dg.build_schedule_context(
        instance=workspace.instance,
        scheduled_execution_time=datetime(2026, 1, 2, 4, tzinfo=UTC),
        resources={"settings": workspace.loaded(**changes)},
    ) as context:
        return defs.resolve_schedule_def(schedule).evaluate_tick(context)


def backfill(workspace: Workspace, schedule: str) -> list[dg.ExecuteInProcessResult]:
    """The runs that a schedule's tick asks for, executed."""
    job = defs.resolve_schedule_def(schedule).job_name
    return [execute(workspace, job, request) for request in schedule_tick(workspace, schedule).run_requests or []]


def execute(workspace: Workspace, job: str, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """A requested run, which must succeed."""
    definition = workspace.definitions().resolve_job_def(job)
    done = definition.execute_in_process(
        instance=workspace.instance,
        tags=request.tags,
        run_config={**request.run_config, **workspace.launched()},
        asset_selection=request.asset_selection,
    )
    assert done.success
    return done


def asked_range(request: dg.RunRequest) -> tuple[str, str]:
    """First and last shard of a requested run."""
    return tuple(request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))  # type: ignore[return-value]
