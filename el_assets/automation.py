"""Schedules that ask for what is missing or stale, if anything is. Off until a person switches them on.

A run asks for one contiguous range that spans unfinished shards: shards in between that are up to date are skipped,
which is cheaper than loading a model once per isolated shard. A range never spans a shard that its run could not make.
A schedule asks for nothing while a run of its job is under way, so that ticks do not pile up.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import dagster as dg

from el_assets.gateau.assets import open_instructions_of
from el_assets.jobs import Jobs
from el_assets.partitions import instruction_shards, registered_shards, selected_fractions
from el_assets.recipes import CORPUS_TABLES, SAMPLE_TABLES, SEQUENCE_TABLES
from el_assets.shard_runs import open_corpus_of
from el_assets.staleness import Inventory
from el_resources.settings import Settings

UNDER_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)

Asked = Iterator[dg.RunRequest | dg.SkipReason]


def corpus_inventory(instance: dg.DagsterInstance, settings: Settings) -> Inventory:
    """The registered shards of the corpus."""
    return Inventory(settings, open_corpus_of(settings), registered_shards(instance))


def pool_inventory(instance: dg.DagsterInstance, settings: Settings) -> Inventory:
    """The registered shards of the instruction samples."""
    return Inventory(settings, open_instructions_of(settings), registered_shards(instance, instruction_shards))


def range_tags(first: str, last: str) -> dict[str, str]:
    """Run tags that ask for the registered shards from first to last."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def spanning_ranges(
    wanted: Collection[str], registered: Sequence[str], size: int, barred: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Ranges of at most `size` registered shards that hold all wanted ones and none that is barred, each beginning and
    ending with a wanted one."""
    asked, walls = set(wanted), set(barred)
    held: list[int] = []
    for number, shard in enumerate(registered):
        if held and (shard in walls or number >= held[0] + size):
            yield registered[held[0]], registered[held[-1]]
            held = []
        if shard in asked and shard not in walls:
            held.append(number)
    if held:
        yield registered[held[0]], registered[held[-1]]


def ask_for_index(inventory: Inventory) -> Asked:
    """Runs of `build_index`; for the index alone where only it is stale."""
    wanted = inventory.unfinished(CORPUS_TABLES)
    yield from _ranges(inventory, wanted, barred=inventory.gone)
    if not wanted:
        if inventory.index().is_done or not inventory.has_chunks:
            yield _up_to_date(inventory)
        else:
            yield dg.RunRequest(asset_selection=[dg.AssetKey("retrieval_index")])


def ask_for_sequences(inventory: Inventory) -> Asked:
    """Runs of `build_sequences` for shards whose chunks are done; those without wait for `build_index`."""
    if inventory.index_misleads():
        yield dg.SkipReason("the retrieval index holds chunks that changed or went; run build_index first")
        return
    waiting = {*inventory.unfinished(CORPUS_TABLES), *inventory.gone}
    wanted = [shard for shard in inventory.unfinished(SEQUENCE_TABLES) if shard not in waiting]
    yield from _ranges(inventory, wanted, barred=waiting)
    if not wanted and waiting:
        yield dg.SkipReason(f"{len(waiting)} of {len(inventory.registered)} registered shards wait for build_index")
    elif not wanted:
        yield _up_to_date(inventory)


def ask_for_samples(inventory: Inventory) -> Asked:
    """Runs of `score_samples`."""
    wanted = inventory.unfinished(SAMPLE_TABLES)
    yield from _ranges(inventory, wanted, barred=inventory.gone)
    if not wanted:
        yield _up_to_date(inventory)


def ask_for_selection(inventory: Inventory) -> Asked:
    """A run of `select_samples` where the pool or a setting of the ranking changed."""
    scored = [s for s in inventory.registered if all(inventory.table(t, s).is_done for t in SAMPLE_TABLES)]
    stale = [s for s in inventory.registered if s not in scored and inventory.table("cam_scores", s).state == "stale"]
    fractions = selected_fractions.get_partition_keys()
    if not scored or stale:
        yield dg.SkipReason(f"{len(scored)} registered shards are scored and {len(stale)} wait for score_samples")
    elif inventory.influence().is_done and all(inventory.subset(fraction).is_done for fraction in fractions):
        yield _up_to_date(inventory)
    else:
        yield dg.RunRequest(tags=range_tags(fractions[0], fractions[-1]))


def _ranges(inventory: Inventory, wanted: Sequence[str], barred: Collection[str]) -> Asked:
    for first, last in spanning_ranges(wanted, inventory.registered, inventory.settings.shards_per_run, barred):
        yield dg.RunRequest(tags=range_tags(first, last))


def _with_key(asked: dg.RunRequest | dg.SkipReason, key: str) -> dg.RunRequest | dg.SkipReason:
    """A tick that is tried again starts no run twice."""
    return asked.with_replaced_attrs(run_key=key) if isinstance(asked, dg.RunRequest) else asked


def _up_to_date(inventory: Inventory) -> dg.SkipReason:
    return dg.SkipReason(f"all {len(inventory.registered)} registered shards are up to date")


def _schedule(
    name: str,
    job: Any,
    ask: Callable[[Inventory], Asked],
    inventory_of: Callable[[dg.DagsterInstance, Settings], Inventory],
    cron: str,
    what: str,
) -> dg.ScheduleDefinition:
    """A schedule that is off until a person switches it on."""

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"{what} Asks for nothing where nothing is missing or stale, or while a run of {job.name} is under "
        "way. EL_BACKFILL_EVERY_HOURS says how often, EL_SHARDS_PER_RUN how many shards a run takes.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, settings: Settings) -> Asked:
        running = context.instance.get_runs_count(dg.RunsFilter(job_name=job.name, statuses=UNDER_WAY))
        if running:
            yield dg.SkipReason(f"{running} runs of {job.name} are under way")
        else:
            asked = ask(inventory_of(context.instance, settings))
            yield from (_with_key(one, f"{context.scheduled_execution_time}:{n}") for n, one in enumerate(asked))

    return schedule


def schedules(every_hours: int, jobs: Jobs) -> list[dg.ScheduleDefinition]:
    """All schedules; daily ones run by night, an hour apart and more, since each needs what the one before made."""

    def cron(minute: int, hour: int) -> str:
        return f"0 {hour} * * *" if every_hours == 24 else f"{minute} */{every_hours} * * *"

    return [
        _schedule(
            "backfill_index",
            jobs.build_index,
            ask_for_index,
            corpus_inventory,
            cron(0, 2),
            "Reads, chunks and indexes the registered shards whose documents or chunks are missing or stale, and takes "
            "the rows of removed shards out of the index.",
        ),
        _schedule(
            "backfill_sequences",
            jobs.build_sequences,
            ask_for_sequences,
            corpus_inventory,
            cron(30, 4),
            "Finishes the registered shards of which an EntropyLong table is missing or stale.",
        ),
        _schedule(
            "backfill_samples",
            jobs.score_samples,
            ask_for_samples,
            pool_inventory,
            cron(15, 3),
            "Scores the registered instruction shards of which a table is missing or stale.",
        ),
        _schedule(
            "backfill_selection",
            jobs.select_samples,
            ask_for_selection,
            pool_inventory,
            cron(45, 5),
            "Ranks the pool of instruction samples and selects again where it or a setting of the ranking changed.",
        ),
    ]
