"""The commands of `python -m el_assets`: register shards, run jobs on the Dagster instance, print the outcome.

Runs execute in this process, but on the instance that the UI reads, so the UI shows them with lineage and metadata.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster import DagsterInstance
from dagster._utils.error import SerializableErrorInfo
from upath import UPath

from el_assets.catalogue import ASSETS_OF_JOBS
from el_assets.cli.backfills import submit_backfill
from el_assets.cli.before_a_run import refuse_what_cannot_run
from el_assets.cli.interrupts import Interrupts
from el_assets.cli.settings_command import advice, seen_by_this_command_only
from el_assets.cli.summary import Stage, added_by_name, print_summary, stages_of, unreadable_files
from el_assets.cli.terminal import terminal
from el_assets.operations.failed_runs import PROCESS_TAG, close_lost_runs, this_process
from el_assets.operations.homes import opened_instance
from el_assets.operations.in_process import execute_here
from el_assets.operations.passed_over import print_passed_over
from el_assets.operations.removal import Departures
from el_assets.operations.run_needs import launches_on_ray
from el_assets.operations.schedules import range_tags
from el_assets.operations.status import in_words, made_again, status_of
from el_assets.partitions import contiguous_ranges, register_shards, registered_shards
from el_assets.parts import FRACTIONS, JOBS, PARTS, REPORTS, SHARDED_PARTS
from el_assets.reports.assets import makeable_reports, report_path
from el_assets.sources import KINDS
from el_assets.tables.failures import told_of_step, trace_kept
from el_assets.tables.shard_checks import failed_in_words
from el_assets.workspace import build_definitions
from el_resources.configuration.environment import Environment, field_of
from el_resources.configuration.launching import shown_at_launch
from el_resources.listed_names import listed
from el_resources.settings import Settings
from el_resources.sources.contracts import ShardedSource
from el_resources.store.shard_tables import KnownStamps

# Assets of each part, as `status` lists them.
ASSETS_OF_PARTS = {
    part: [asset for job in JOBS if job.part == part for asset in ASSETS_OF_JOBS[job.name]] for part in SHARDED_PARTS
}
SEPARATOR = "\n\n"  # between traces
# Settings that flags of `run` set.
GIVEN_BY_FLAG = ("force", "refresh_candidates", "replace_by_empty")


def register(environment: Environment) -> int:
    """Register the shards of the corpus and of the instruction samples that the settings name."""
    settings = Settings.load(environment.values())
    with opened_instance() as instance:
        for kind in KINDS:
            source, shards = _registered(instance, settings, kind)
            print(f"{len(shards)} shards of {source.uri} are registered: {listed(shards)}")
            print_passed_over(source)
    _print_advice(environment)
    return 0


def status(options: argparse.Namespace, environment: Environment) -> int:
    """Print what is done, missing and stale; return 0 if everything is done, else 1."""
    settings, parts = Settings.load(environment.values()), _chosen(options.select, list(PARTS), "part")
    fractions = _chosen(options.subsets, list(FRACTIONS), "subset")
    assets = {
        name: [asset for part in parts if SHARDED_PARTS.get(part, ("",))[0] == name for asset in ASSETS_OF_PARTS[part]]
        for name in KINDS
    }
    with opened_instance() as instance:
        found = [
            status_of(kind, instance, settings, subsets=fractions, verify=options.verify).only(assets[name])
            for name, kind in KINDS.items()
            if assets[name]
        ]
    if options.json:
        print(json.dumps({"done": all(one.is_done for one in found), "sources": [one.as_json() for one in found]}))
    else:
        print("\n\n".join("\n".join(in_words(one, all_names=options.shards)) for one in found))
        _print_advice(environment)
    return 0 if all(one.is_done for one in found) else 1


def run(options: argparse.Namespace, environment: Environment, interrupts: Interrupts) -> int:
    """Materialize the chosen parts of the chosen shards; return 0 if all succeeded and every source could be read."""
    flags = seen_by_this_command_only(environment)
    settings = Settings.load(
        environment.values(),
        force=options.force or None,
        refresh_candidates=options.refresh or None,
        replace_by_empty=options.replace_by_empty or None,
    )
    parts = _chosen(options.select, list(PARTS), "part")
    fractions = _chosen(options.subsets, list(FRACTIONS), "subset")
    refuse_what_cannot_run(settings, parts)
    with opened_instance() as instance:
        close_lost_runs(instance)
        sources, chosen = _register(instance, settings, parts, options)
        assets = [name for part in parts for name in ASSETS_OF_PARTS.get(part, ())]
        # Announce repeated tables.
        for line in made_again(instance, settings, sources, chosen, assets):
            print(line, flush=True)
        # The terminal shows progress bars and warnings; failures are printed at the end.
        definitions = dg.Definitions.merge(build_definitions(settings), dg.Definitions(loggers={"console": terminal}))
        given = [field_of(variable) for variable in flags]
        here = _Here(instance, settings, definitions, given, interrupts, options.debug)
        corpus, pool = chosen.get("corpus", []), chosen.get("instructions", [])
        started, succeeded = time.monotonic(), True
        stages: list[Stage] = []
        checks: list[dg.AssetCheckEvaluation] = []
        runs = [run for part in parts if part != "reports" for run in _runs(here, part, chosen, fractions)]
        # Execute the jobs.
        for job, tags, of_shards in [("observe_models", {}, False), *runs]:
            result = here.execute(job, tags, of_shards=of_shards)
            stages += stages_of(instance, result)
            checks += result.get_asset_check_evaluations() if result.success else []
            succeeded = result.success
            if not succeeded:
                print("\n".join([*_causes(settings, corpus, pool), here.failure(result)]), file=sys.stderr)
                break
        # Write the reports.
        reports: list[UPath] | None = []
        if succeeded and "reports" in parts:
            reports = _report(here, is_asked=options.select is not None)
        seconds = time.monotonic() - started
    if not succeeded or reports is None:
        _print_failed(checks)
        return 1
    stages = added_by_name(stages)
    look = advice(flags) or ["make ui, then http://127.0.0.1:3000"]
    passed = _print_failed(checks)
    readable = print_summary(settings, corpus, stages, pool=pool, reports=reports, seconds=seconds, look=look)
    return 0 if passed and readable else 1


def _print_failed(checks: Sequence[dg.AssetCheckEvaluation]) -> bool:
    """Print the failed checks that did not end their run; return False if one of them has the severity error."""
    for line in failed_in_words(checks, dg.AssetCheckSeverity.WARN):
        print(f"  warning: {line}")
    failed = failed_in_words(checks)
    for line in failed:
        print(f"  failed check: {line}", file=sys.stderr)
    return not failed


@dataclass(frozen=True)
class _Here:
    """Runs in this process, under the settings of the command.

    Attributes:
        given: settings that flags set. They are written into the configuration of every run, so that its page shows
            them and a re-execution uses them.
        debug: also print traces.
    """

    instance: DagsterInstance
    settings: Settings
    definitions: dg.Definitions
    given: Sequence[str]
    interrupts: Interrupts
    debug: bool

    def execute(
        self, job: str, tags: dict[str, str], assets: Sequence[str] = (), *, of_shards: bool = False
    ) -> dg.JobExecutionResult:
        """Execute a job; raise Interrupted if a signal came meanwhile, even if the run succeeded."""
        try:
            result = execute_here(
                self.instance,
                self.definitions.resolve_job_def(job),
                tags={**tags, PROCESS_TAG: this_process()},
                run_config={
                    "loggers": {"console": {"config": {"log_level": "WARNING"}}},
                    "resources": {
                        "settings": {"config": shown_at_launch(self.settings, (*self.given, *GIVEN_BY_FLAG))}
                    },
                },
                assets=[dg.AssetKey(asset) for asset in assets],
                of_shards=of_shards,
            )
        except BaseException:  # a signal before its first step or after its last
            close_lost_runs(self.instance)
            raise
        self.interrupts.raise_if_came()
        return result

    def failure(self, result: dg.JobExecutionResult) -> str:
        """Return the failed steps, shards and checks of a run, with cause and remedy; write the traces into a file."""
        lines, traces = failed_in_words(result.get_asset_check_evaluations()), []
        for step, error in _errors(result):
            if error is None or not error.message.startswith("dagster._core.errors.DagsterAssetCheckFailedError"):
                lines.append(told_of_step(error).of_step(step))
                traces.append(f"{step}: {error}")
        words = [line.replace("\n", "\n  ") for line in lines]
        kept = f"; {trace_kept(f'run-{result.run_id}', SEPARATOR.join(traces), on_screen=self.debug)}" if traces else ""
        return "\n  ".join([f"the run failed{kept}", *words])


def _print_advice(environment: Environment) -> None:
    for line in advice(seen_by_this_command_only(environment)):
        print(line)


def _causes(settings: Settings, corpus: Sequence[str], pool: Sequence[str]) -> list[str]:
    """Return lines on the files that could not be read, since they are often the cause of a failed run."""
    try:
        problems = unreadable_files(KnownStamps(settings.store), corpus, pool)
    except (OSError, ValueError):  # the run failed for the same reason, which is printed next
        return []
    return ["these files could not be read:", *(f"  {problem}" for problem in problems)] * bool(problems)


def _report(here: _Here, *, is_asked: bool) -> list[UPath] | None:
    """Write the reports whose tables exist; return their paths, or None if a report that was asked for failed.

    Reports span all shards of the store. If those were made under different settings, no report can be made, but a run
    over some of the shards still counts as a success.
    """
    makeable = makeable_reports(here.settings, registered_shards(here.instance))
    if not makeable and is_asked:
        raise ValueError(
            f"store {here.settings.store!r} has nothing to report on; run the parts entropylong or gateau first"
        )
    made = []
    for name in makeable:
        result = here.execute("build_reports", {}, [name])
        if result.success:
            made.append(report_path(here.settings, name))
            continue
        print(f"{name} was not made: {here.failure(result)}", file=sys.stderr)
        if is_asked:
            return None
    return made


def backfill(options: argparse.Namespace, environment: Environment) -> int:
    """Submit backfills of the chosen parts and shards to Dagster's daemon: one for the corpus, one for GATEAU.

    Reports are made only if they are selected: they hold the scores of all shards in memory, which may be too many.
    """
    settings = Settings.load(environment.values())
    parts = _chosen(options.select, list(PARTS), "part") if options.select is not None else list(SHARDED_PARTS)
    if "reports" in parts and not set(parts) & set(REPORTS):
        raise ValueError(
            f"reports are made after a backfill of {' or '.join(REPORTS)}; select one of them too, or launch the job "
            "build_reports"
        )
    fractions = _chosen(options.subsets, list(FRACTIONS), "subset")
    with opened_instance() as instance:
        refuse_what_cannot_run(settings, parts, runs_here=not launches_on_ray(instance))
        _, chosen = _register(instance, settings, parts, options)
        launcher = type(instance.run_launcher).__name__
        for kind, shards in chosen.items():
            together = [part for part in parts if part in SHARDED_PARTS and SHARDED_PARTS[part][0] == kind]
            if shards:
                reports = ["reports"] if "reports" in parts and set(together) & set(REPORTS) else []
                identifier = submit_backfill(instance, settings, [*together, *reports], chosen, fractions)
                made = ", ".join([*together, *reports])
                print(f"backfill {identifier}: {made}; the daemon launches its runs with {launcher}")
    return 0


def _register(
    instance: DagsterInstance, settings: Settings, parts: Sequence[str], options: argparse.Namespace
) -> tuple[dict[str, ShardedSource], dict[str, list[str]]]:
    """Register the shards that the parts need; return the opened sources and the chosen shards, by kind of source."""
    kinds = dict.fromkeys(SHARDED_PARTS[part][0] for part in parts if part in SHARDED_PARTS)
    found = {kind: _registered(instance, settings, kind) for kind in kinds}
    known = [shard for _, shards in found.values() for shard in shards]
    wanted = set(_chosen(options.shards, known, named=options.shard))
    chosen = {kind: [shard for shard in shards if shard in wanted] for kind, (_, shards) in found.items()}
    for kind, (source, shards) in found.items():
        print(f"{len(chosen[kind])} of {len(shards)} shards of {source.uri}: {listed(chosen[kind])}", flush=True)
        print_passed_over(source)
    return {kind: source for kind, (source, _) in found.items()}, chosen


def _registered(instance: DagsterInstance, settings: Settings, kind: str) -> tuple[ShardedSource, list[str]]:
    """Register the shards of a source, print which are no longer registered, and return the source and its shards."""
    of = KINDS[kind]
    source, registered = of.open_source(settings), registered_shards(instance, of.partitions)
    listed_now = set(source.shards())
    went = [shard for shard in registered if shard not in listed_now]
    may_lose_many = settings.remove_many_shards or not Departures.of(of, settings, registered, went).in_masses
    registration = register_shards(instance, source, of.partitions, may_lose_many=may_lose_many)
    for line in registration.in_words():
        print(line, flush=True)
    return source, [shard for shard in registration.shards if shard in listed_now]


def _runs(
    here: _Here, part: str, chosen: dict[str, list[str]], fractions: Sequence[str]
) -> list[tuple[str, dict[str, str], bool]]:
    """Return the runs of a part in order, each as (job, tags, whether it is of its own shards alone).

    A job over shards runs once per contiguous range of at most `shards_per_run` shards, one over subsets once per range
    of subsets. Assets and checks over all shards are part of the last run over shards only.
    """
    kind, job = SHARDED_PARTS[part]
    registered = registered_shards(here.instance, KINDS[kind].partitions)
    ranges = contiguous_ranges(set(chosen.get(kind, ())), registered, most=here.settings.shards_per_run)
    runs = [(job, range_tags(*ends), number < len(ranges)) for number, ends in enumerate(ranges, start=1)]
    subsets = [range_tags(*ends) for ends in contiguous_ranges(set(fractions), list(FRACTIONS))]
    for over_all in [one for one in JOBS if one.part == part and not one.is_sharded] if runs else []:
        runs += [(over_all.name, tags, False) for tags in (subsets if over_all.over == "subsets" else [{}])]
    return runs


def _errors(result: dg.JobExecutionResult) -> Iterator[tuple[str, SerializableErrorInfo | None]]:
    """Yield each failed step with its error; the run itself if it failed before or between its steps."""
    steps = [(str(event.step_key), event.step_failure_data.error) for event in result.get_step_failure_events()]
    yield from steps
    for event in result.filter_events(lambda event: event.is_job_failure and not steps):
        yield result.job_def.name, event.job_failure_data.error


def _chosen(asked: str | None, registered: list[str], what: str = "shard", *, named: Sequence[str] = ()) -> list[str]:
    """Return the chosen names, from a comma-separated list or given one by one, in registration order; else all.

    A name with a comma is written in double quotes in the list, as in CSV.
    """
    if asked is None and not named:
        return registered
    given = next(csv.reader([asked or ""], skipinitialspace=True), [])
    names = [*(name.strip() for name in given if name.strip()), *named]
    unknown = [name for name in names if name not in registered]
    if unknown or not names:
        raise ValueError(
            f"unknown {what} {', '.join(map(repr, unknown)) or repr(asked)}; there are {listed(registered)}"
        )
    return [shard for shard in registered if shard in names]
