"""Schedules that start runs for missing or stale tables, and sensors that start one job after another.

All are off until a person switches them on. A run takes one contiguous range of shards, from an unfinished one to an
unfinished one. Shards in between that are up to date are skipped, which costs less than to load a model for each
isolated shard. A range contains no shard that its run could not make. No run is started while one of the same job is
queued or running, so that ticks do not pile up.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import dagster as dg

from el_assets.catalogue import CORPUS_TABLES, SAMPLE_TABLES, SEQUENCE_TABLES, made_under
from el_assets.operations.jobs import Jobs
from el_assets.operations.staleness import Inventory
from el_assets.operations.status import AssetStatus, problems
from el_assets.partitions import selected_fractions
from el_assets.sources import KINDS, Kind
from el_resources.listed_names import listed
from el_resources.settings import Settings

UNDER_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
)

Asked = Iterator[dg.RunRequest | dg.SkipReason]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the run tags that choose the registered shards from first to last."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def spanning_ranges(
    wanted: Collection[str], registered: Sequence[str], size: int, barred: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield ranges (first, last) of at most `size` registered shards that together hold all wanted shards.

    Each range begins and ends with a wanted shard, and holds none that is barred.
    """
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
    """Yield requests for runs of `build_index`; for the index alone if nothing else is stale."""
    wanted = inventory.unfinished(CORPUS_TABLES)
    yield from _ranges(inventory, wanted, barred=inventory.gone)
    if not wanted:
        done = inventory.over_shards("retrieval_index").is_done
        if done or not inventory.rules.has_inputs("retrieval_index"):
            yield _up_to_date(inventory)
        else:
            yield dg.RunRequest(asset_selection=[dg.AssetKey("retrieval_index")])


def ask_for_sequences(inventory: Inventory) -> Asked:
    """Yield requests for runs of `build_sequences`, for shards with chunks; the other shards wait for `build_index`."""
    if inventory.rules.misleads("retrieval_index"):
        yield dg.SkipReason("the retrieval index holds chunks that have changed or are gone; run build_index first")
        return
    waiting = {*inventory.unfinished(CORPUS_TABLES), *inventory.gone}
    wanted = [shard for shard in inventory.unfinished(SEQUENCE_TABLES) if shard not in waiting]
    yield from _ranges(inventory, wanted, barred=waiting)
    if not wanted and waiting:
        shown = listed([shard for shard in inventory.registered if shard in waiting])
        yield dg.SkipReason(
            f"{len(waiting)} of {len(inventory.registered)} registered shards wait for build_index: {shown}"
        )
    elif not wanted:
        yield _up_to_date(inventory)


def ask_for_samples(inventory: Inventory) -> Asked:
    """Yield requests for runs of `score_samples`."""
    wanted = inventory.unfinished(made_under(SAMPLE_TABLES, inventory.settings))
    yield from _ranges(inventory, wanted, barred=inventory.gone)
    if not wanted:
        yield _up_to_date(inventory)


def ask_for_selection(inventory: Inventory) -> Asked:
    """Yield a request for a run of `select_samples` if the pool or a setting of the ranking has changed."""
    tables = made_under(SAMPLE_TABLES, inventory.settings)
    scored = [s for s in inventory.registered if all(inventory.table(t, s).is_done for t in tables)]
    stale = [s for s in inventory.registered if s not in scored and inventory.table(tables[-1], s).state == "stale"]
    fractions = selected_fractions.get_partition_keys()
    if not scored or stale:
        shown = f": {listed(stale)}" if stale else ""
        yield dg.SkipReason(
            f"{len(scored)} registered shards are scored and {len(stale)} wait for score_samples{shown}"
        )
    elif inventory.over_shards("influence_scores").is_done and all(
        inventory.over_shards("selected_subsets", fraction).is_done for fraction in fractions
    ):
        yield _up_to_date(inventory)
    else:
        yield dg.RunRequest(tags=range_tags(fractions[0], fractions[-1]))


def _ranges(inventory: Inventory, wanted: Sequence[str], barred: Collection[str]) -> Asked:
    for first, last in spanning_ranges(wanted, inventory.registered, inventory.settings.shards_per_run, barred):
        yield dg.RunRequest(tags=range_tags(first, last))


def _with_key(asked: dg.RunRequest | dg.SkipReason, key: str) -> dg.RunRequest | dg.SkipReason:
    """Return a request with a run key, so that a tick that is repeated does not start the run twice."""
    return asked.with_replaced_attrs(run_key=key) if isinstance(asked, dg.RunRequest) else asked


def reasons(inventory: Inventory, tables: Sequence[str]) -> Iterator[str]:
    """Yield a line for each table and each reason why it is not done, with the shards concerned.

    Example:
        verified_pairs: stale: setting epsilon was 0.4, is 0.5: 12 shards: a.parquet, b.parquet and 10 more
    """
    for table in tables:
        status = AssetStatus.of(table, ((shard, inventory.table(table, shard)) for shard in inventory.registered))
        for reason, shards in problems(status).items():
            yield f"{table}: {reason}: {len(shards)} shards: {listed(shards)}"


def in_words(asked: dg.RunRequest | dg.SkipReason, job: str) -> str:
    """Return a line for the log of a tick."""
    if isinstance(asked, dg.SkipReason):
        return asked.skip_message or "starts no run"
    ends = [asked.tags[tag] for tag in range_tags("", "") if tag in asked.tags]
    return f"starts {job}: {f'{ends[0]} to {ends[1]}' if ends else 'the index alone'}"


def _up_to_date(inventory: Inventory) -> dg.SkipReason:
    return dg.SkipReason(f"all {len(inventory.registered)} registered shards are up to date")


@dataclass(frozen=True, kw_only=True)
class Automated:
    """A job that a schedule or a sensor asks for.

    Attributes:
        job: name of the job.
        ask: yields the requests for runs, or the reason why there is none.
        tables: returns the tables that the log of a tick explains.
        waits_for: jobs whose runs must have ended. For example, sequences made with half an index would stay as they
            are.
    """

    job: str
    ask: Callable[[Inventory], Asked]
    kind: Kind
    tables: Callable[[Settings], Sequence[str]]
    waits_for: tuple[str, ...] = ()

    def answer(
        self, context: dg.ScheduleEvaluationContext | dg.RunStatusSensorContext, settings: Settings, key: str
    ) -> Asked:
        """Yield requests for runs, or the reason why there is none; log which shards are not done and why.

        Args:
            key: prefix of the run keys, by which a repeated tick does not start a run twice.
        """
        for job in (self.job, *self.waits_for):
            running = context.instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=UNDER_WAY))
            if running:
                context.log.info(f"{running} runs of {job} are queued or running")
                yield dg.SkipReason(f"{running} runs of {job} are queued or running")
                return
        inventory = self.kind.inventory(context.instance, settings)
        asked = list(self.ask(inventory))
        for line in (*reasons(inventory, self.tables(inventory.settings)), *(in_words(one, self.job) for one in asked)):
            context.log.info(line)
        yield from (_with_key(one, f"{key}:{number}") for number, one in enumerate(asked))


INDEX = Automated(job="build_index", ask=ask_for_index, kind=KINDS["corpus"], tables=lambda settings: CORPUS_TABLES)
SEQUENCES = Automated(
    job="build_sequences",
    ask=ask_for_sequences,
    kind=KINDS["corpus"],
    tables=lambda settings: SEQUENCE_TABLES,
    waits_for=("build_index",),
)
SAMPLES = Automated(
    job="score_samples", ask=ask_for_samples, kind=KINDS["instructions"], tables=partial(made_under, SAMPLE_TABLES)
)
SELECTION = Automated(
    job="select_samples",
    ask=ask_for_selection,
    kind=KINDS["instructions"],
    tables=partial(made_under, SAMPLE_TABLES),
    waits_for=("score_samples",),
)


def _schedule(name: str, jobs: Jobs, automated: Automated, cron: str, what: str) -> dg.ScheduleDefinition:
    """Return a schedule that is off until a person switches it on."""
    job = jobs.named(automated.job)

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"{what} Starts no run if everything is up to date, or while a run of "
        f"{' or '.join((job.name, *automated.waits_for))} is queued or running. The log of each tick names the shards "
        "and the reasons. EL_BACKFILL_EVERY_HOURS sets the interval, EL_SHARDS_PER_RUN the most shards of a run.",
    )
    def schedule(context: dg.ScheduleEvaluationContext, settings: Settings) -> Asked:
        yield from automated.answer(context, settings, str(context.scheduled_execution_time))

    return schedule


def schedules(every_hours: int, jobs: Jobs) -> list[dg.ScheduleDefinition]:
    """Return all schedules. Daily ones run at night, an hour apart, so that each finds what the one before made."""

    def cron(minute: int, hour: int) -> str:
        return f"0 {hour} * * *" if every_hours == 24 else f"{minute} */{every_hours} * * *"

    return [
        _schedule(
            "backfill_index",
            jobs,
            INDEX,
            cron(0, 2),
            "Runs build_index for the registered shards whose documents or chunks are missing or stale. If only the "
            "index is stale, for example after shards were removed, it updates the index alone.",
        ),
        _schedule(
            "backfill_sequences",
            jobs,
            SEQUENCES,
            cron(30, 4),
            "Runs build_sequences for the registered shards that have chunks and a missing or stale EntropyLong table. "
            "The sensor sequences_follow_index does the same after each run of build_index.",
        ),
        _schedule(
            "backfill_samples",
            jobs,
            SAMPLES,
            cron(15, 3),
            "Runs score_samples for the registered instruction shards with a missing or stale table.",
        ),
        _schedule(
            "backfill_selection",
            jobs,
            SELECTION,
            cron(45, 5),
            "Runs select_samples if the scored pool or a setting of the ranking has changed. The sensor "
            "selection_follows_scores does the same after each run of score_samples.",
        ),
    ]


def _follows(name: str, jobs: Jobs, automated: Automated, after: Automated, what: str) -> dg.SensorDefinition:
    """Return a sensor that starts a job after a successful run of another job, or of the job itself.

    The job itself counts because its run may have been in the way when the other job ended. Shards that this run did
    not finish are not asked for again, since that could repeat for ever.
    """
    job = jobs.named(automated.job)

    @dg.run_status_sensor(
        name=name,
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[jobs.named(after.job), job],
        request_job=job,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"{what} Starts no run if everything is up to date, or while a run of "
        f"{' or '.join((job.name, *automated.waits_for))} is queued or running. The log of each tick names the shards "
        "and the reasons. EL_SHARDS_PER_RUN sets the most shards of a run.",
    )
    def sensor(context: dg.RunStatusSensorContext, settings: Settings) -> list[dg.RunRequest] | dg.SkipReason:
        run = context.dagster_run
        asked = list(automated.answer(context, settings, run.run_id))
        runs = [one for one in asked if isinstance(one, dg.RunRequest)]
        again = [one for one in runs if run.job_name == job.name and _range_of(one.tags) == _range_of(run.tags)]
        if again:
            return dg.SkipReason(f"{job.name} has just run for the same shards and did not finish them; see its log")
        return runs or next(one for one in asked if isinstance(one, dg.SkipReason))

    return sensor


def _range_of(tags: Mapping[str, str]) -> list[str | None]:
    return [tags.get(tag) for tag in range_tags("", "")]


def following_sensors(jobs: Jobs) -> list[dg.SensorDefinition]:
    """Return the sensors that start the second half of the graph right after the first half."""
    return [
        _follows(
            "sequences_follow_index",
            jobs,
            SEQUENCES,
            INDEX,
            "After each successful run of build_index, runs build_sequences for the registered shards with a missing "
            "or stale EntropyLong table.",
        ),
        _follows(
            "selection_follows_scores",
            jobs,
            SELECTION,
            SAMPLES,
            "After each successful run of score_samples, runs select_samples, which ranks the pool and selects again.",
        ),
    ]
