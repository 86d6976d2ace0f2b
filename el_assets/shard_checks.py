"""Checks over shards: one property, a plain function `shard -> problems`, one result that names the shards that fail.

A partitioned check looks at the shards of its run; a global one at every registered shard whose table exists, and says
how many. Failing checks say what to do next.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from el_assets.partitions import registered_shards
from el_resources.settings import Settings
from el_resources.shard_tables import MixedSettingsError, ShardTables

# What is wrong with one shard, in words; empty where nothing is.
Problems = Callable[[ShardTables, str], list[str]]
SHOWN = 20


def shard_check(
    asset: Any,
    problems: Problems,
    *,
    remedy: str,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """A check of the run's shards, named after the function that states the fact; its docstring describes it."""

    @dg.asset_check(
        asset=asset,
        name=problems.__name__,
        description=problems.__doc__,
        partitions_def=asset.partitions_def,
        blocking=blocking,
    )
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        tables = ShardTables(settings.store)
        found = {shard: listed for shard in context.partition_keys if (listed := problems(tables, shard))}
        return result(found, shards=len(context.partition_keys), remedy=remedy, severity=severity)

    return check


def all_shards_check(
    asset: Any, problems: Callable[[ShardTables, list[str]], dict[str, list[str]]], *, remedy: str
) -> dg.AssetChecksDefinition:
    """A warning over all registered shards: `problems` gives what is wrong, by shard or by thing.

    It is asked only where the asset's table exists for at least one of them.
    """
    name = asset.key.to_user_string()

    @dg.asset_check(asset=asset, name=problems.__name__, description=problems.__doc__)
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        tables = ShardTables(settings.store)
        registered = registered_shards(context.instance)
        existing = [shard for shard in registered if tables.exists(name, shard)]
        try:
            found = problems(tables, registered) if existing else {}
        except MixedSettingsError as error:
            # The run's own tables are good; what spans shards cannot be said until they agree.
            found = {name: [str(error)]}
        return result(found, shards=len(existing), remedy=remedy, severity=dg.AssetCheckSeverity.WARN)

    return check


def result(
    found: dict[str, list[str]],
    *,
    shards: int,
    remedy: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """Passed where nothing was found; else the first problems, each with its shard, and what to do next."""
    lines = [f"{where}: {what}" for where, listed in found.items() for what in listed]
    metadata: dict[str, Any] = {"shards_checked": shards, "problems": len(lines)}
    if lines:
        metadata["first_problems"] = dg.MetadataValue.json(lines[:SHOWN])
        metadata["what_to_do"] = remedy
    return dg.AssetCheckResult(
        passed=not lines, severity=severity, metadata=metadata, description=f"{lines[0]}. {remedy}" if lines else None
    )
