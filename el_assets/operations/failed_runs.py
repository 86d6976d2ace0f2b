"""A last line in the log of a failed run: its shards, the steps that did not finish, and the cause.

If `EL_FAILURE_WEBHOOK` is set, the line is also posted to that address, as the JSON `{"text": ...}` that chat services
accept. The variable is not a setting of runs, so that no run's page shows the address.
"""

import os
import socket
from collections.abc import Sequence

import dagster as dg

from el_assets.operations.webhook import post
from el_assets.partitions import registered_shards
from el_assets.sources import KINDS
from el_assets.tables.failures import told_of_step
from el_resources.addresses import without_secrets

# Tags of a run: ONLY if it has one partition, FIRST and LAST if it has several.
FIRST, LAST, ONLY = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end", "dagster/partition"
# Dagster does not show tags that begin with `.dagster/`.
PROCESS_TAG = ".dagster/entropylong_process"
UNFINISHED = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


def this_process() -> str:
    """Return the value of PROCESS_TAG that names this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def shards_of_run(run: dg.DagsterRun, instance: dg.DagsterInstance) -> list[str]:
    """Return the registered shards of a run; an empty list if it has none."""
    first = run.tags.get(FIRST, run.tags.get(ONLY))
    last = run.tags.get(LAST, first)
    for kind in KINDS.values():
        registered = registered_shards(instance, kind.partitions)
        if first in registered and last in registered:
            return registered[registered.index(first) : registered.index(last) + 1]
    return []


def loss(run: dg.DagsterRun, shards: Sequence[str], steps: Sequence[str], cause: str) -> str:
    """Return the message about a failed run.

    Args:
        steps: steps that had started and did not succeed.
    """
    held = f"{len(shards)} shards, {shards[0]} to {shards[-1]}" if shards else "no shards"
    return (
        f"{run.job_name} failed with {held}, in {', '.join(steps) or 'no step'}: {cause}\n"
        "Tables that it had written stay; the next run over these shards makes only the rest."
    )


@dg.run_failure_sensor(
    name="name_lost_shards",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="After a run has failed, writes its shards, the failed step and the cause into the run's log, and "
    "posts the same to EL_FAILURE_WEBHOOK if that is set.",
)
def name_lost_shards(context: dg.RunFailureSensorContext) -> None:
    run, instance = context.dagster_run, context.instance
    steps = [stats for stats in instance.get_run_step_stats(run.run_id) if stats.start_time]
    unfinished = [stats.step_key for stats in steps if not stats.end_time or str(stats.status).endswith("FAILURE")]
    message = without_secrets(loss(run, shards_of_run(run, instance), unfinished, _cause(context)))
    instance.report_engine_event(message, run)
    if address := os.environ.get("EL_FAILURE_WEBHOOK"):
        post(address, message)


def _cause(context: dg.RunFailureSensorContext) -> str:
    """Return the error of the first failed step; Dagster's message if no step failed, as after the loss of a node."""
    for event in context.get_step_failure_events():
        if (error := event.step_failure_data.error) is not None:
            return told_of_step(error).with_shard
    return (context.failure_event.message or "no cause recorded").strip()


def close_lost_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed if their process on this machine has ended, and free their slots in the pools."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        host, _, pid = run.tags.get(PROCESS_TAG, "").partition(":")
        # Process ids repeat in containers: a run with the id of this process belongs to an earlier one.
        if host == socket.gethostname() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            instance.report_run_failed(
                run, "its process has ended; the tables that it had written stay, and the next run makes the rest"
            )
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
