"""Checks over shards: one property, a plain function `shard -> problems`, one result that names the shards that fail.

A partitioned check looks at the shards of its run; a global one at every registered shard whose table exists, and says
how many. Failing checks say what to do next.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

# Dagster's own results of a partitioned check name no partition if its run has several, and then count for none of
# them. Its version is pinned exactly.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from el_assets.partitions import registered_shards
from el_resources.settings import Settings
from el_resources.shard_tables import MixedSettingsError, ShardTables

# What is wrong with one shard, in words; empty where nothing is.
Problems = Callable[[ShardTables, str], list[str]]
SHOWN = 20


def shard_check(asset: Any, problems: Problems, *, remedy: str, blocking: bool = False) -> dg.AssetChecksDefinition:
    """A check of the run's shards, named after the function that states the fact; its docstring describes it."""

    @dg.asset_check(
        asset=asset,
        name=problems.__name__,
        description=problems.__doc__,
        partitions_def=asset.partitions_def,
        blocking=blocking,
    )
    def check(
        context: dg.AssetCheckExecutionContext, settings: Settings
    ) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
        tables, shards = ShardTables(settings.store), list(context.partition_keys)
        made = _materializations(context.instance, asset.key, shards)
        for shard in shards:
            found = result({shard: problems(tables, shard)}, shards=1, remedy=remedy)
            yield dg.AssetCheckEvaluation(
                asset_key=asset.key,
                check_name=problems.__name__,
                passed=found.passed,
                metadata=found.metadata,
                target_materialization_data=made.get(shard),
                severity=found.severity,
                description=found.description,
                blocking=blocking,
                partition=shard,
            )
        yield dg.Output(None)  # what Dagster takes for the end of a check

    return check


def _materializations(
    instance: dg.DagsterInstance, asset: dg.AssetKey, shards: Sequence[str]
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    """The latest materialization of each shard, which a result is about: an older one's result does not count."""
    latest = instance.event_log_storage.get_latest_storage_id_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, set(shards)
    )
    ids = list(latest.values())
    if not ids:
        return {}
    found = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=asset, storage_ids=ids), limit=len(ids))
    return {
        str(record.partition_key): AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for record in found.records
    }


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
