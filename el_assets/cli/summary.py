"""The summary that `run` prints at its end: what was made, its quality and cost, and the store."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
from upath import UPath

from el_assets.operations.passed_over import bad_row_lines
from el_assets.sources import KINDS
from el_resources.addresses import without_secrets
from el_resources.settings import Settings
from el_resources.store.shard_tables import KnownStamps, ShardTables


@dataclass(frozen=True)
class Stage:
    """An asset of this run: its wall-clock seconds, the sequences read by the model, and the tables written."""

    name: str
    seconds: float
    forwards: int
    written: int


def stages_of(instance: dg.DagsterInstance, result: dg.JobExecutionResult) -> list[Stage]:
    """Return the stage of each asset of a run, in the order in which they ended."""
    forwards, written = Counter[str](), Counter[str]()
    for event in result.get_asset_materialization_events():
        metadata, step = event.materialization.metadata, str(event.step_key)
        if "forwards_in_this_run" in metadata:
            forwards[step] += int(metadata["forwards_in_this_run"].value)  # type: ignore[arg-type]
        written[step] += not metadata["skipped"].value
    stats = [
        s for s in instance.get_run_step_stats(result.run_id) if s.step_key in written and s.end_time and s.start_time
    ]
    return [
        Stage(s.step_key, (s.end_time or 0) - (s.start_time or 0), forwards[s.step_key], written[s.step_key])
        for s in sorted(stats, key=lambda s: s.end_time or 0)
    ]


def added_by_name(stages: Sequence[Stage]) -> list[Stage]:
    """Add up the stages of each asset over several runs, in the order of their first appearance."""
    found: dict[str, Stage] = {}
    for one in stages:
        old = found.get(one.name, Stage(one.name, 0.0, 0, 0))
        found[one.name] = Stage(
            one.name, old.seconds + one.seconds, old.forwards + one.forwards, old.written + one.written
        )
    return list(found.values())


def print_summary(
    settings: Settings,
    shards: Sequence[str],
    stages: Sequence[Stage],
    *,
    pool: Sequence[str] = (),
    reports: Sequence[UPath] = (),
    seconds: float,
    look: Sequence[str] = ("make ui, then http://127.0.0.1:3000",),
) -> bool:
    """Print the summary of the tables that exist; return False if a source file could not be read.

    Args:
        shards, pool: the run's corpus shards and instruction shards.
        reports: pages that the run wrote or found up to date.
        look: lines that say how to look at the result.
    """
    tables = KnownStamps(settings.store)
    made = [(KINDS[kind], of_kind) for kind, of_kind in {"corpus": shards, "instructions": pool}.items() if of_kind]
    rows = [row for kind, of_kind in made for row in kind.rows(settings, tables, of_kind)]
    width = max(len(label) for label in ("forwards in this run", *(label for label, _ in rows)))
    print()
    for label, value in rows:
        print(f"  {label:<{width}}  {value}")
    print(f"  {'seconds':<{width}}  {seconds:.0f}: " + ", ".join(f"{s.name} {s.seconds:.1f}" for s in stages))
    forwards = sum(stage.forwards for stage in stages)
    written = sum(stage.written for stage in stages)
    done = f"{forwards:,}" if forwards or written else "0: every table was up to date and none was written"
    print(f"  {'forwards in this run':<{width}}  {done}")
    print(f"  {'tables':<{width}}  {without_secrets(str(tables.store / 'tables'))}")
    for path in reports:
        print(f"  {'report':<{width}}  {without_secrets(str(path))}")
    for label, line in zip(["look at it", *[""] * len(look)], look, strict=False):
        print(f"  {label:<{width}}  {line}")
    print()
    for warning in [line for kind, of_kind in made for line in kind.warnings(tables, of_kind)]:
        print(f"  warning: {warning}")
    for row in [line for kind, of_kind in made for line in bad_row_lines(tables, kind.assets[0], of_kind)]:
        print(f"  unreadable row: {row}")
    unreadable = unreadable_files(tables, shards, pool)
    for problem in unreadable:
        print(f"  not read: {problem}")
    return not unreadable


def unreadable_files(tables: ShardTables, shards: Sequence[str], pool: Sequence[str]) -> list[str]:
    """Return the errors of the source files that could not be read."""
    read = [*tables.stamps("documents", shards).values(), *tables.stamps("instruction_samples", pool).values()]
    return [str(stamp.facts["unreadable"]) for stamp in read if "unreadable" in stamp.facts]
