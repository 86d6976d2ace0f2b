"""A run over many shards: skip what is up to date, make the rest shard by shard, say what happened for each.

Every partitioned asset's body is `materialize_shards(context, settings, make)`. A shard's table is written as soon as
it is made, so a run that dies loses at most one shard's work, and the next run starts with that shard.

A table whose file cannot be read any more stays as it was, with all that is made from it, and its stamp names the
fault; without an earlier table it is empty. A table that a model scored is never replaced by an empty one unless the
setting `replace_by_empty` says that it is meant: the shard stays as it is, the others are made, and the run fails at
the end and names what would have been lost.

Pictures and first rows are read off the table when it is made. A run over few shards reads them off skipped tables as
well, so that the newest materialization shows them; if it spans many, skipping stays cheap.
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

# Shards up to which a run shows what it skips, and how large such a table may be.
FEW_SHARDS = 8
SMALL_TABLE_BYTES = 16 * 2**20
# Shards that an error names.
SHARDS_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Made:
    """One shard's result.

    Attributes:
        frame: the asset's table.
        facts: counts and costs for the stamp, JSON-ready.
        pinned: inputs to record without depending on them.
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
    """Make the run's shards of the asset at hand; its single table if it has no partitions.

    Args:
        make: computes one shard.
        still_valid: a further condition for skipping a shard whose recipe is unchanged.
        source: what the asset is read from, if it is.
        inputs: the tables that it is made from, if those are more than the same shard's.
        why_empty: why the table that would have this stamp has no rows, in words, and what to change.

    Raises:
        MissingTableError: a table of the same shard that the asset reads has not been made.
        EmptiedTablesError: scored tables would have become empty; they were left as they are, the others were made.
    """
    asset = context.asset_key.to_user_string()
    tables = ShardTables(settings.store)
    cookbook = Cookbook(settings, tables, source)
    # An unpartitioned asset may be part of a run over partitions; it has one table all the same.
    partitioned = context.assets_def.partitions_def is not None
    shards = list(context.partition_keys) if partitioned else [UNPARTITIONED]
    if partitioned:
        context.log.info(f"{asset}: {len(shards)} shards, {shards[0]} to {shards[-1]}")

    draft = partial(_drafted, context, cookbook, inputs=inputs, still_valid=still_valid)
    maker = _Maker(make, why_empty, may_empty=settings.replace_by_empty)
    fingerprints: dict[str, str] = {}
    withheld: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        outcome = _outcome(tables, maker, draft(shard))
        context.log.info(f"{asset} {number}/{len(shards)} {shard}: {outcome.in_words}")
        if outcome.withheld:
            withheld[shard] = outcome.withheld
            continue
        metadata = _metadata(tables, all_settings(settings), outcome, is_of_few=len(shards) <= FEW_SHARDS)
        context.add_asset_metadata(metadata, partition_key=shard if partitioned else None)
        fingerprints[shard] = outcome.stamp.fingerprint
    if withheld:
        raise EmptiedTablesError(_emptied(asset, withheld, list(fingerprints)))
    # A launchpad's settings may differ from those of the definitions' own code version.
    tags = {"dagster/code_version": shown_version(asset, all_settings(settings))}
    return dg.MaterializeResult(data_version=_data_version(fingerprints), tags=tags)


def _data_version(fingerprints: Mapping[str, str]) -> dg.DataVersion:
    """Dagster keeps one for all partitions of a run; each partition's own is in its metadata."""
    return dg.DataVersion(next(iter(fingerprints.values())) if len(fingerprints) == 1 else digest(dict(fingerprints)))


def _emptied(asset: str, withheld: Mapping[str, str], made: Sequence[str]) -> str:
    """Return the error's words: the scored tables that would be emptied, the reason, and the two ways on."""
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
    """A shard's next stamp, the stored one, and whether its table still follows, or is the next one by another name."""

    new: Stamp
    stored: Stamp | None
    kept: bool
    renamed: bool = False

    @property
    def rows_at_stake(self) -> int:
        """Scored rows that an empty table would replace."""
        return self.stored.facts["rows"] if self.stored and RECIPES[self.new.asset].is_scored else 0


@dataclass(frozen=True)
class _Outcome:
    """The stamp of a shard's table; `withheld` says why it was not replaced by an empty one."""

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
    """Return a shard's next stamp with its stored table, and whether that is kept; an error names the shard."""
    asset, settings = context.asset_key.to_user_string(), cookbook.settings
    with shard_named(shard):
        stored = cookbook.tables.stamp(asset, shard)
        if stored is None and (damage := cookbook.tables.damage(asset, shard)):
            context.log.warning(f"{asset} of {shard!r} is made again: {damage}")
        new = cookbook.draft(asset, shard, inputs, stored)
        follows = stored is not None and still_follows(stored, new, all_settings(settings))
        if follows and not settings.force and still_valid(shard):
            return _Task(new, stored, kept=True)
        # A stored table is judged by the dtype that it was made in, a new one is made in this machine's.
        is_renamed = stored is not None and not settings.force and cookbook.takes_over(stored)
        return _Task(cookbook.draft(asset, shard, inputs), stored, kept=False, renamed=is_renamed)


def _outcome(tables: ShardTables, maker: _Maker, task: _Task) -> _Outcome:
    """Make the shard's table unless it is up to date; an error names the shard."""
    if task.kept and task.stored:
        return _Outcome(task.stored, skipped=True)
    if task.renamed and task.stored:
        stamp = replace(task.new, pinned=task.stored.pinned, facts=task.stored.facts)
        tables.write(tables.read(stamp.asset, stamp.partition), stamp)
        return _Outcome(stamp, skipped=True, renamed=True)
    with shard_named(task.new.partition):
        return _made(tables, maker, task)


def _made(tables: ShardTables, maker: _Maker, task: _Task) -> _Outcome:
    """Make the shard's table and write it, unless it would wipe scores."""
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
    """Return the facts of a table whose file cannot be read: why, and under which bound on bad rows."""
    return {"unreadable": str(error), "bad_rows_max_share": settings.bad_rows_max_share}


def _outlived(tables: ShardTables, stored: Stamp, made: Made, tried: str) -> _Outcome:
    """Keep a table whose file cannot be read any more, so that nothing made from it is lost; its stamp says so."""
    facts = {**stored.facts, **{name: made.facts[name] for name in ("unreadable", "bad_rows_max_share")}}
    stamp = replace(stored, facts={**facts, OUTLIVED_AS: tried})
    tables.write(tables.read(stored.asset, stored.partition), stamp)
    return _Outcome(stamp)


def _changed_settings(stored: Stamp, new: Stamp) -> list[str]:
    """The settings of the table's own recipe that are not those that it was made under."""
    return [
        f"{name} was {stored.settings[name]!r}, is {new.settings[name]!r}"
        for name in RECIPES[new.asset].settings
        if name in stored.settings and stored.settings[name] != new.settings[name]
    ]


def _metadata(tables: ShardTables, settings: Settings, outcome: _Outcome, *, is_of_few: bool) -> dict[str, Any]:
    """Return a shard's metadata for the UI; a skipped table is read only if it is small, and one of few."""
    stamp = outcome.stamp
    is_small = is_of_few and tables.path(stamp.asset, stamp.partition).stat().st_size <= SMALL_TABLE_BYTES
    seen = not outcome.skipped or is_small
    found = shown(stamp.asset, tables.scan(stamp.asset, stamp.partition), settings) if seen else {}
    return {**found, **table_metadata(tables, stamp, skipped=outcome.skipped)}
