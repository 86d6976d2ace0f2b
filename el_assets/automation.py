"""Daily schedules that ask for what is missing or stale, if anything is. Off until a person switches them on.

A run asks for one contiguous range that spans the unfinished shards: shards in between that are up to date are skipped,
which is cheaper than loading a model once per isolated shard.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from el_assets.jobs import build_index, build_sequences
from el_assets.partitions import registered_shards
from el_assets.recipes import Cookbook, OtherModelError
from el_assets.shard_runs import open_corpus_of
from el_resources.settings import Settings
from el_resources.shard_tables import MissingTableError, ShardTables

CORPUS_TABLES = ("documents", "context_chunks")
SEQUENCE_TABLES = ("entropy_maps", "candidate_contexts", "context_scores", "verified_pairs", "packed_sequences")
SHARDS_PER_RUN = 64


def unfinished(settings: Settings, shards: Sequence[str], tables_of_job: Sequence[str]) -> list[str]:
    """Those shards of which one of the tables is missing or stale, in the given order.

    A shard that the source no longer has cannot be made; the next registration takes it out.
    """
    tables = ShardTables(settings.store)
    source = open_corpus_of(settings)
    cookbook = Cookbook(settings, tables, source)
    listed = set(source.shards())
    return [shard for shard in shards if shard in listed and not _is_finished(cookbook, shard, tables_of_job)]


def _is_finished(cookbook: Cookbook, shard: str, tables_of_job: Sequence[str]) -> bool:
    try:
        return all(cookbook.is_current(table, shard) for table in tables_of_job)
    except (MissingTableError, OtherModelError):
        return False


def range_tags(first: str, last: str) -> dict[str, str]:
    """Run tags that ask for the registered shards from first to last."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def spanning_ranges(
    wanted: Sequence[str], registered: Sequence[str], size: int = SHARDS_PER_RUN
) -> Iterator[tuple[str, str]]:
    """Ranges of at most `size` registered shards that hold all wanted ones, each beginning and ending with one."""
    asked = set(wanted)
    numbers = [number for number, shard in enumerate(registered) if shard in asked]
    while numbers:
        held = [number for number in numbers if number < numbers[0] + size]
        yield registered[held[0]], registered[held[-1]]
        numbers = numbers[len(held) :]


def _requests(
    context: dg.ScheduleEvaluationContext, settings: Settings, tables_of_job: Sequence[str]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    registered = registered_shards(context.instance)
    wanted = unfinished(settings, registered, tables_of_job)
    if not wanted:
        yield dg.SkipReason(f"all {len(registered)} registered shards are up to date")
    for first, last in spanning_ranges(wanted, registered):
        yield dg.RunRequest(run_key=f"{context.scheduled_execution_time}:{first}", tags=range_tags(first, last))


def _daily(name: str, job: Any, hour: int, tables_of_job: Sequence[str], what: str) -> dg.ScheduleDefinition:
    """A schedule that is off until a person switches it on."""

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=f"0 {hour} * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Every day at {hour:02d}:00: {what}. Asks for nothing where nothing is missing or stale.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, settings: Settings) -> Iterator[dg.RunRequest | dg.SkipReason]:
        yield from _requests(context, settings, tables_of_job)

    return schedule


daily_index = _daily(
    "daily_index",
    build_index,
    2,
    CORPUS_TABLES,
    "read, chunk and index the registered shards whose documents or chunks are missing or stale",
)
daily_sequences = _daily(
    "daily_sequences",
    build_sequences,
    4,
    SEQUENCE_TABLES,
    "finish the registered shards of which an EntropyLong table is missing or stale",
)
SCHEDULES = [daily_index, daily_sequences]
