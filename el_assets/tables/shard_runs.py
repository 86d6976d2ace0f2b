"""A run over many shards: it skips tables that are up to date, makes the others shard by shard, and logs each.

The body of every partitioned asset is `materialize_shards(context, settings, make)`. A shard's table is written as soon
as it is made, so a run that dies loses the work on one shard only, and the next run starts with that shard.

If the file of a table cannot be read any more, the table and those made from it stay, and its stamp names the fault; if
there was no table, an empty one is written. A table that a model scored is not replaced by an empty one, unless
`replace_by_empty` is set: this shard stays as it is, the others are made, and then the run fails and names the tables
that would have been emptied.

Pictures and first rows are made from each new table. A run over few shards makes them from skipped tables as well, so
that the newest materialization shows them; a run over many does not, so that skipping stays cheap.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import dagster as dg
import polars as pl

from el_assets.catalogue import RECIPES
from el_assets.plots.shown import shown
from el_assets.tables.failures import shard_named
from el_assets.tables.metadata import table_metadata
from el_assets.tables.recipes import OUTLIVED_AS, Cookbook, still_follows
from el_assets.tables.schemas import conform
from el_assets.tables.shown_versions import shown_version
from el_resources.settings import Settings, all_settings
from el_resources.sources.contracts import CorruptShardError, ShardedSource
from el_resources.store.shard_tables import UNPARTITIONED, ShardTables
from el_resources.store.stamps import Stamp, digest

# Most shards of a run that also shows skipped tables, and the largest size of such a table.
FEW_SHARDS = 8
SMALL_TABLE_BYTES = 16 * 2**20
# Most shards that an error names.
SHARDS_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Made:
    """The result of making one shard.

    Attributes:
        frame: the asset's table.
        facts: counts and costs for the stamp, JSON-ready.
        pinned: inputs that are recorded but do not make the table stale.
        side_tables: further tables of the same shard, written before the asset's own.
    """

    frame: pl.DataFrame
    facts: Mapping[str, Any] = field(default_factory=dict)
    pinned: Mapping[str, str] = field(default_factory=dict)
    side_tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)


class EmptiedTablesError(ValueError):
    """Tables that a model scored would have been replaced by empty ones."""


def materialize_shards(
    context: dg.AssetExecutionContext,
    settings: Settings,
    make: Callable[[str], Made],
    *,
    still_valid: Callable[[str], bool] = lambda shard: True,
    source: ShardedSource | None = None,
    inputs: Mapping[str, Stamp] | None = None,
    why_empty: Callable[[Stamp], str] = lambda stamp: "its inputs have no rows left",
) -> dg.MaterializeResult:
    """Make the shards of the run for the asset of the context, or its single table if it has no partitions.

    Args:
        make: makes one shard.
        still_valid: further condition for skipping a shard with an unchanged recipe.
        source: the source of the asset, if it is read from one.
        inputs: stamps of its inputs, if these are not tables of the same shard.
        why_empty: returns why the table with this stamp has no rows and what to change, in words.

    Raises:
        MissingTableError: a table of the same shard that the asset reads has not been made.
        EmptiedTablesError: scored tables would have been replaced by empty ones. They were kept, the others were made.
    """
    asset = context.asset_key.to_user_string()
    tables = ShardTables(settings.store)
    cookbook = Cookbook(settings, tables, source)
    # An unpartitioned asset may be part of a run over partitions; it still has one table.
    partitioned = context.assets_def.partitions_def is not None
    shards = list(context.partition_keys) if partitioned else [UNPARTITIONED]
    if partitioned:
        context.log.info(f"{asset}: {len(shards)} shards, {shards[0]} to {shards[-1]}")

    draft = partial(_drafted, context, cookbook, inputs=inputs, still_valid=still_valid)
    maker = _Maker(make, why_empty, may_empty=settings.replace_by_empty)
    fingerprints: dict[str, str] = {}
    withheld: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        # Make or skip.
        outcome = _outcome(tables, maker, draft(shard))
        context.log.info(f"{asset} {number}/{len(shards)} {shard}: {outcome.in_words}")
        if outcome.withheld:
            withheld[shard] = outcome.withheld
            continue
        # Show the table.
        metadata = _metadata(tables, all_settings(settings), outcome, is_of_few=len(shards) <= FEW_SHARDS)
        context.add_asset_metadata(metadata, partition_key=shard if partitioned else None)
        fingerprints[shard] = outcome.stamp.fingerprint
    if withheld:
        raise EmptiedTablesError(_emptied(asset, withheld, list(fingerprints)))
    # The launchpad may have other settings than the definitions, and so another code version.
    tags = {"dagster/code_version": shown_version(asset, all_settings(settings))}
    return dg.MaterializeResult(data_version=_data_version(fingerprints), tags=tags)


def _data_version(fingerprints: Mapping[str, str]) -> dg.DataVersion:
    """Return the data version of a run. Dagster has one for all its partitions; metadata holds that of each."""
    return dg.DataVersion(next(iter(fingerprints.values())) if len(fingerprints) == 1 else digest(dict(fingerprints)))


def _emptied(asset: str, withheld: Mapping[str, str], made: Sequence[str]) -> str:
    """Return the error message: the scored tables that would be emptied, the reasons, and two remedies."""
    lines = [f"{shard!r} {why}" for shard, why in islice(withheld.items(), SHARDS_NAMED)]
    if len(withheld) > SHARDS_NAMED:
        lines.append(f"and {len(withheld) - SHARDS_NAMED} more shards")
    others = f" The other {len(made)} shards of {asset} are made." if made else ""
    return (
        f"{asset} of {len(withheld)} shards, which a model has scored, would be replaced by empty tables; they were "
        f"left as they are.{others} Undo the change that emptied them, or run again with --replace-by-empty "
        "(EL_REPLACE_BY_EMPTY=true) if it is intended:\n    " + "\n    ".join(lines)
    )


@dataclass(frozen=True)
class _Task:
    """The decision on one shard.

    Attributes:
        new: stamp of the table if it is made now.
        stored: stamp of the stored table, if there is one.
        kept: the stored table is up to date.
        renamed: the stored table has the same scores, under the fingerprint of an earlier version.
    """

    new: Stamp
    stored: Stamp | None
    kept: bool
    renamed: bool = False

    @property
    def rows_at_stake(self) -> int:
        """Number of scored rows that an empty table would replace."""
        return self.stored.facts["rows"] if self.stored and RECIPES[self.new.asset].is_scored else 0


@dataclass(frozen=True)
class _Outcome:
    """The result for one shard: the stamp of its table; `withheld` is the reason why it was not emptied."""

    stamp: Stamp
    skipped: bool = False
    renamed: bool = False
    withheld: str = ""

    @property
    def in_words(self) -> str:
        if self.withheld:
            return f"left as it is: {self.withheld}"
        if OUTLIVED_AS in self.stamp.facts:
            return f"kept as it is, since its file cannot be read now: {self.stamp.facts['unreadable']}"
        if self.renamed:
            return "scores of this model and dtype, taken over from an earlier version"
        rows, seconds = self.stamp.facts["rows"], self.stamp.facts["seconds"]
        return "up to date" if self.skipped else f"{rows:,} rows in {seconds:.1f} s"


@dataclass(frozen=True)
class _Maker:
    """The function that makes a shard's table, and the rules for a table that comes out empty."""

    make: Callable[[str], Made]
    why_empty: Callable[[Stamp], str]
    may_empty: bool


def _drafted(
    context: dg.AssetExecutionContext,
    cookbook: Cookbook,
    shard: str,
    *,
    inputs: Mapping[str, Stamp] | None,
    still_valid: Callable[[str], bool],
) -> _Task:
    """Return the decision on a shard; errors get a note with the shard."""
    asset, settings = context.asset_key.to_user_string(), cookbook.settings
    with shard_named(shard):
        stored = cookbook.tables.stamp(asset, shard)
        if stored is None and (damage := cookbook.tables.damage(asset, shard)):
            context.log.warning(f"{asset} of {shard!r} is made again: {damage}")
        new = cookbook.draft(asset, shard, inputs, stored)
        follows = stored is not None and still_follows(stored, new, all_settings(settings))
        if follows and not settings.force and still_valid(shard):
            return _Task(new, stored, kept=True)
        # A stored table is compared in its own dtype; a new one is drafted in the dtype of this machine.
        is_renamed = stored is not None and not settings.force and cookbook.takes_over(stored)
        return _Task(cookbook.draft(asset, shard, inputs), stored, kept=False, renamed=is_renamed)


def _outcome(tables: ShardTables, maker: _Maker, task: _Task) -> _Outcome:
    """Make the shard's table unless it is up to date; errors get a note with the shard."""
    if task.kept and task.stored:
        return _Outcome(task.stored, skipped=True)
    if task.renamed and task.stored:
        stamp = replace(task.new, pinned=task.stored.pinned, facts=task.stored.facts)
        tables.write(tables.read(stamp.asset, stamp.partition), stamp)
        return _Outcome(stamp, skipped=True, renamed=True)
    with shard_named(task.new.partition):
        return _made(tables, maker, task)


def _made(tables: ShardTables, maker: _Maker, task: _Task) -> _Outcome:
    """Make the shard's table and write it, unless it is empty and would replace scores."""
    started = time.monotonic()
    made = maker.make(task.new.partition)
    seconds = round(time.monotonic() - started, 3)
    facts = {"rows": made.frame.height, "seconds": seconds, **made.facts}
    stamp = replace(task.new, pinned=dict(made.pinned), facts=facts)
    if made.frame.is_empty() and task.rows_at_stake and not maker.may_empty:
        assert task.stored, "rows are at stake in a stored table"
        changed = "".join(f", {change}" for change in _changed_settings(task.stored, stamp))
        return _Outcome(task.stored, withheld=f"({task.rows_at_stake:,} rows{changed}): {maker.why_empty(stamp)}")
    if task.stored and task.stored.facts["rows"] and "unreadable" in made.facts and not maker.may_empty:
        return _outlived(tables, task.stored, made, task.new.recipe)
    for name, frame in made.side_tables.items():
        tables.write(conform(frame, name), replace(task.new, asset=name, facts={"rows": frame.height}))
    tables.write(conform(made.frame, stamp.asset), stamp)
    return _Outcome(stamp)


def unreadable(error: CorruptShardError, settings: Settings) -> dict[str, Any]:
    """Return the facts of a table whose file cannot be read: the reason, and the bound on bad rows."""
    return {"unreadable": str(error), "bad_rows_max_share": settings.bad_rows_max_share}


def _outlived(tables: ShardTables, stored: Stamp, made: Made, tried: str) -> _Outcome:
    """Keep a table whose file cannot be read any more, and record the reason in its stamp."""
    facts = {**stored.facts, **{name: made.facts[name] for name in ("unreadable", "bad_rows_max_share")}}
    stamp = replace(stored, facts={**facts, OUTLIVED_AS: tried})
    tables.write(tables.read(stored.asset, stored.partition), stamp)
    return _Outcome(stamp)


def _changed_settings(stored: Stamp, new: Stamp) -> list[str]:
    """Return the settings of the table's recipe that have changed, in words."""
    return [
        f"{name} was {stored.settings[name]!r}, is {new.settings[name]!r}"
        for name in RECIPES[new.asset].settings
        if name in stored.settings and stored.settings[name] != new.settings[name]
    ]


def _metadata(tables: ShardTables, settings: Settings, outcome: _Outcome, *, is_of_few: bool) -> dict[str, Any]:
    """Return a shard's metadata for the UI; a skipped table is read only if it is small and the run has few shards."""
    stamp = outcome.stamp
    is_small = is_of_few and tables.path(stamp.asset, stamp.partition).stat().st_size <= SMALL_TABLE_BYTES
    seen = not outcome.skipped or is_small
    found = shown(stamp.asset, tables.scan(stamp.asset, stamp.partition), settings) if seen else {}
    return {**found, **table_metadata(tables, stamp, skipped=outcome.skipped)}
