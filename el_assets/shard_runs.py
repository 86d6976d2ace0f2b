"""A run over many shards: skip what is up to date, make the rest shard by shard, say what happened for each.

Every partitioned asset's body is `materialize_shards(context, settings, make)`. A shard's table is written as soon as
it is made, so a run that dies loses at most what is at hand, and the next run starts there: one shard, or two where a
GPU scores (side_by_side.py), which takes the host's memory for both.

Pictures and first rows are read off the table when it is made. A run over few shards reads them off skipped tables as
well, so that the newest materialization shows them; where it spans many, skipping stays cheap.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import dagster as dg
import polars as pl

from el_assets.metadata import table_metadata
from el_assets.plots.shown import shown
from el_assets.recipes import Cookbook, FingerprintedSource
from el_assets.schemas import conform
from el_assets.shown_versions import shown_version
from el_assets.side_by_side import Laps, in_order, stop_if_abandoned
from el_resources.causal_lm import ModelChoice, ScorerTokens
from el_resources.corpus_source import CorpusSource, open_corpus
from el_resources.settings import Settings
from el_resources.shard_tables import UNPARTITIONED, ShardTables, Stamp, digest

# Shards up to which a run shows what it skips, and how large such a table may be.
FEW_SHARDS = 8
SMALL_TABLE_BYTES = 16 * 2**20


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


def materialize_shards(
    context: dg.AssetExecutionContext,
    settings: Settings,
    make: Callable[[str], Made],
    *,
    still_valid: Callable[[str], bool] = lambda shard: True,
    source: FingerprintedSource | None = None,
    inputs: Mapping[str, Stamp] | None = None,
    at_once: Callable[[], int] = lambda: 1,
) -> dg.MaterializeResult:
    """Make the run's shards of the asset at hand; its single table where it has no partitions.

    Args:
        make: computes one shard.
        still_valid: a further condition for skipping a shard whose recipe is unchanged.
        source: what the asset is read from, if it is.
        inputs: the tables that it is made from, where those are more than the same shard's.
        at_once: how many shards are under way together; asked once there is one to make.

    Raises:
        MissingTableError: a table of the same shard that the asset reads has not been made.
    """
    asset = context.asset_key.to_user_string()
    tables = ShardTables(settings.store)
    cookbook = Cookbook(settings, tables, source)
    # An unpartitioned asset may stand in a run over partitions; it has its one table all the same.
    partitioned = context.assets_def.partitions_def is not None
    shards = list(context.partition_keys) if partitioned else [UNPARTITIONED]
    if partitioned:
        context.log.info(f"{asset}: {len(shards)} shards, {shards[0]} to {shards[-1]}")

    def draft(shard: str) -> _Task:
        new, stored = cookbook.draft(asset, shard, inputs), tables.stamp(asset, shard)
        follows = not settings.force and stored is not None and stored.recipe == new.recipe
        return _Task(new, stored if follows and still_valid(shard) else None)

    asked = cache(at_once)
    results = in_order(
        partial(_stamp, tables, make, Laps()),
        map(draft, shards),
        lambda task: 1 if task.kept or len(shards) == 1 else asked(),
    )
    fingerprints: dict[str, str] = {}
    with closing(results):
        for number, (shard, (stamp, skip)) in enumerate(zip(shards, results, strict=True), start=1):
            done = "up to date" if skip else f"{stamp.facts['rows']:,} rows in {stamp.facts['seconds']:.1f} s"
            context.log.info(f"{asset} {number}/{len(shards)} {shard}: {done}")
            is_shown = not skip or (len(shards) <= FEW_SHARDS and _is_small(tables, stamp))
            metadata = shown(asset, tables.scan(asset, stamp.partition), settings) if is_shown else {}
            metadata.update(table_metadata(tables, stamp, skipped=skip))
            context.add_asset_metadata(metadata, partition_key=shard if partitioned else None)
            fingerprints[shard] = stamp.fingerprint
    # Dagster keeps one data version for all partitions of a run; each partition's own stands in its metadata.
    version = next(iter(fingerprints.values())) if len(fingerprints) == 1 else digest(fingerprints)
    # A launchpad's settings may differ from those that the definitions' own code version stands for.
    tags = {"dagster/code_version": shown_version(asset, settings)}
    return dg.MaterializeResult(data_version=dg.DataVersion(version), tags=tags)


def open_corpus_of(settings: Settings) -> CorpusSource:
    """The corpus that the settings name. Raises ValueError (see open_corpus)."""
    return open_corpus(
        settings.corpus,
        text_column=settings.text_column or None,
        hub_endpoint=settings.hub_endpoint,
        counter=ScorerTokens(ModelChoice.long(settings)),
    )


def _is_small(tables: ShardTables, stamp: Stamp) -> bool:
    return tables.path(stamp.asset, stamp.partition).stat().st_size <= SMALL_TABLE_BYTES


@dataclass(frozen=True)
class _Task:
    """A shard's next stamp, and the stored one where its table still follows."""

    new: Stamp
    kept: Stamp | None


def _stamp(tables: ShardTables, make: Callable[[str], Made], laps: Laps, task: _Task) -> tuple[Stamp, bool]:
    """The stamp of the shard's table, and whether that was there already."""
    return (task.kept, True) if task.kept else (_make_and_write(tables, make, laps, task.new), False)


def _make_and_write(tables: ShardTables, make: Callable[[str], Made], laps: Laps, draft: Stamp) -> Stamp:
    started = time.monotonic()
    made = make(draft.partition)
    stop_if_abandoned()
    seconds = round(laps.end(started), 3)
    for name, frame in made.side_tables.items():
        side = replace(draft, asset=name, facts={"rows": frame.height})
        tables.write(conform(frame, name), side)
    stamp = replace(
        draft, pinned=dict(made.pinned), facts={"rows": made.frame.height, "seconds": seconds, **made.facts}
    )
    tables.write(conform(made.frame, draft.asset), stamp)
    return stamp
