"""Checks over shards: one property, a plain function `shard -> problems`.

A partitioned check gives a result for each shard of its run; a global one a single result for every registered shard
whose table exists, which says how many. Failing checks say what to do next.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import dagster as dg

# Dagster's own results of a partitioned check name no partition if its run has several, and then count for none of
# them. Its version is pinned exactly.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from el_assets.partitions import corpus_shards, registered_shards
from el_resources.listed_names import listed
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import MixedSettingsError

# What is wrong with one shard, in words; empty if nothing is. It gets tables, shard, and what the check is given.
Problems = Callable[..., list[str]]
SHOWN = 20
SHARDS_NAMED = 3
# Tag of a run in which a check failed as an error.
FAILED_TAG = "entropylong/failed_checks"


def shard_check(
    asset: Any,
    problems: Problems,
    *,
    remedy: str,
    blocking: bool = False,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    given: Callable[[Settings], Any] | None = None,
) -> dg.AssetChecksDefinition:
    """A check named after the function that states the fact; its docstring describes it.

    It gives a result for each shard of the run, and one for all of them, which pages show that have room for one. A run
    without shards (*Execute all* in the UI) looks at every registered shard that has the table.

    Args:
        given: opens the source or index that `problems` needs besides the tables, once a run.
    """
    key = dg.AssetCheckKey(asset.key, problems.__name__)

    @dg.asset_check(
        asset=asset,
        name=key.name,
        description=problems.__doc__,
        partitions_def=asset.partitions_def,
        blocking=blocking,
    )
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> Any:  # Dagster's type knows one result
        tables, name = ShardTables(settings.store), asset.key.to_user_string()
        chosen = _chosen_shards(context)
        shards = chosen or [s for s in registered_shards(context.instance, asset.partitions_def) if tables.has(name, s)]
        needed = (given(settings),) if given else ()
        found = {shard: problems(tables, shard, *needed) for shard in shards}
        made = _materializations(context.instance, asset.key, shards)
        for shard in sorted(shards, key=lambda shard: bool(found[shard])):  # the latest of them is one that failed
            one = result({shard: found[shard]}, shards=1, remedy=remedy, severity=severity)
            yield _evaluation(key, one, blocking=blocking, shard=shard, about=made.get(shard))
            if found[shard] and blocking:
                _mark_as_failed(context, asset.key, shard)
        if severity == dg.AssetCheckSeverity.ERROR and any(found.values()):
            _tag_run(context, key, [shard for shard in shards if found[shard]])
        if len(chosen) != 1:
            whole = result(found, shards=len(shards), remedy=remedy, severity=severity)
            yield _evaluation(key, whole, blocking=blocking)
        yield dg.Output(None)  # the end of a check, as Dagster counts it

    return check


def _chosen_shards(context: dg.AssetCheckExecutionContext) -> list[str]:
    """The shards of the run; none if it was launched without."""
    return list(context.partition_keys) if context.has_partition_key or context.has_partition_key_range else []


def _evaluation(
    key: dg.AssetCheckKey,
    result: dg.AssetCheckResult,
    *,
    blocking: bool,
    shard: str | None = None,
    about: AssetCheckEvaluationTargetMaterializationData | None = None,
) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=result.passed,
        metadata=result.metadata,
        target_materialization_data=about,
        severity=result.severity,
        description=result.description,
        blocking=blocking,
        partition=shard,
    )


def _tag_run(context: dg.AssetCheckExecutionContext, key: dg.AssetCheckKey, failed: Sequence[str]) -> None:
    """Name the failed check and its shards in a tag of the run, which stays green if the check does not block."""
    run_id = context.op_execution_context.run_id
    run = context.instance.get_run_by_id(run_id)
    told = run.tags.get(FAILED_TAG, "") if run else ""
    line = f"{key.to_user_string()}: {listed(failed, SHARDS_NAMED)}"
    context.instance.add_run_tags(run_id, {FAILED_TAG: f"{told}; {line}" if told else line})


def _mark_as_failed(context: dg.AssetCheckExecutionContext, asset: dg.AssetKey, shard: str) -> None:
    """Show the shard as failed among the asset's partitions, until it is materialized again.

    Dagster counts a partition as failed if it was meant to be materialized after its latest materialization, by a run
    that failed; a blocking check that fails makes its run fail.
    """
    step = context.op_execution_context.get_step_execution_context()
    event = DagsterEvent.build_asset_materialization_planned_event(
        step.job_name, step.step.key, AssetMaterializationPlannedData(asset, partition=shard)
    )
    context.instance.report_dagster_event(event, step.run_id, logging.DEBUG)


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
    asset: Any,
    problems: Callable[[ShardTables, list[str]], dict[str, list[str]]],
    *,
    remedy: str,
    partitions: dg.DynamicPartitionsDefinition = corpus_shards,
) -> dg.AssetChecksDefinition:
    """A warning over all registered shards: `problems` gives what is wrong, by shard or by thing.

    It is asked only if the asset's table exists for at least one of them.
    """
    name = asset.key.to_user_string()

    @dg.asset_check(asset=asset, name=problems.__name__, description=problems.__doc__)
    def check(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
        tables = ShardTables(settings.store)
        registered = registered_shards(context.instance, partitions)
        existing = [shard for shard in registered if tables.has(name, shard)]
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
    """Passed if nothing was found; else the first problems, each with its shard, and what to do next."""
    lines = [f"{where}: {what}" for where, listed in found.items() for what in listed]
    metadata: dict[str, Any] = {"shards_checked": shards, "problems": len(lines)}
    if lines:
        metadata["first_problems"] = dg.MetadataValue.json(lines[:SHOWN])
        metadata["what_to_do"] = remedy
    return dg.AssetCheckResult(
        passed=not lines, severity=severity, metadata=metadata, description=f"{lines[0]}. {remedy}" if lines else None
    )


def _why(result: dg.AssetCheckEvaluation) -> str:
    """Return a failed result's description, else what its metadata advise."""
    advice = result.metadata.get("what_to_do")
    return result.description or (str(advice.value) if advice else "it failed, and says no more")


def failed_in_words(
    evaluations: Iterable[dg.AssetCheckEvaluation], severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
) -> list[str]:
    """A line for each result that failed with this severity; of a check that failed for many shards, the first few."""
    failed = [one for one in evaluations if not one.passed and one.severity == severity]
    lines = []
    for key, found in groupby(failed, key=lambda one: one.asset_check_key):
        name, results = f"{key.asset_key.to_user_string()}: {key.name}", list(found)
        shards = [one for one in results if one.partition is not None]
        lines += [f"{name}: {_why(one)}" for one in (shards or results)[:SHARDS_NAMED]]
        if len(shards) > SHARDS_NAMED:
            lines.append(f"{name}: and {len(shards) - SHARDS_NAMED} more shards")
    return lines
