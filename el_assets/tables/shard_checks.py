"""Checks of shards, each made of one plain function that returns the problems of a shard.

A partitioned check gives a result for each shard of its run. A global check gives a single result over all registered
shards that have the table. A failed check names the remedy.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import dagster as dg

# If a run has several partitions, Dagster's own check results name none of them and so count for none. Therefore its
# internals are used, at a pinned version.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from el_assets.partitions import corpus_shards, registered_shards
from el_resources.listed_names import listed
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import MixedSettingsError

# (tables, shard, what `given` returned) -> problems of the shard in words; empty if there are none.
Problems = Callable[..., list[str]]
SHOWN = 20
SHARDS_NAMED = 3
# Tag of a run that names its checks that failed as errors.
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
    """Return a check with the name and the docstring of the function that finds the problems.

    It gives a result for each shard of the run, and one for all of them together, for pages that show a single result.
    In a run without shards (*Execute all* in the UI) it checks every registered shard that has the table.

    Args:
        given: returns what `problems` needs in addition to the tables, such as a tokenizer; called once per run.
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
        # Find the problems.
        chosen = _chosen_shards(context)
        shards = chosen or [s for s in registered_shards(context.instance, asset.partitions_def) if tables.has(name, s)]
        needed = (given(settings),) if given else ()
        found = {shard: problems(tables, shard, *needed) for shard in shards}
        # Report each shard.
        made = _materializations(context.instance, asset.key, shards)
        for shard in sorted(
            shards, key=lambda shard: bool(found[shard])
        ):  # failed shards last, since pages show the latest result
            one = result({shard: found[shard]}, shards=1, remedy=remedy, severity=severity)
            yield _evaluation(key, one, blocking=blocking, shard=shard, about=made.get(shard))
            if found[shard] and blocking:
                _mark_as_failed(context, asset.key, shard)
        if severity == dg.AssetCheckSeverity.ERROR and any(found.values()):
            _tag_run(context, key, [shard for shard in shards if found[shard]])
        # Report them together.
        if len(chosen) != 1:
            whole = result(found, shards=len(shards), remedy=remedy, severity=severity)
            yield _evaluation(key, whole, blocking=blocking)
        yield dg.Output(None)  # Dagster requires an output at the end of a check

    return check


def _chosen_shards(context: dg.AssetCheckExecutionContext) -> list[str]:
    """Return the shards of the run; an empty list if it was launched without."""
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
    """Name the failed check and its shards in a tag of the run, since the run itself succeeds if no check blocks."""
    run_id = context.op_execution_context.run_id
    run = context.instance.get_run_by_id(run_id)
    told = run.tags.get(FAILED_TAG, "") if run else ""
    line = f"{key.to_user_string()}: {listed(failed, SHARDS_NAMED)}"
    context.instance.add_run_tags(run_id, {FAILED_TAG: f"{told}; {line}" if told else line})


def _mark_as_failed(context: dg.AssetCheckExecutionContext, asset: dg.AssetKey, shard: str) -> None:
    """Make the UI show the shard as failed among the asset's partitions, until it is materialized again.

    Dagster counts a partition as failed if a failed run had planned to materialize it after its latest materialization.
    So such a plan is recorded; the run fails because of the blocking check.
    """
    step = context.op_execution_context.get_step_execution_context()
    event = DagsterEvent.build_asset_materialization_planned_event(
        step.job_name, step.step.key, AssetMaterializationPlannedData(asset, partition=shard)
    )
    context.instance.report_dagster_event(event, step.run_id, logging.DEBUG)


def _materializations(
    instance: dg.DagsterInstance, asset: dg.AssetKey, shards: Sequence[str]
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    """Return the latest materialization of each shard, since a result counts only for the materialization it names."""
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
    """Return a check over all registered shards, which fails as a warning.

    Args:
        problems: returns the problems, by shard or by name of the thing concerned; called only if at least one shard
            has the asset's table.
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
            # The run's own tables are good, but shards with different settings cannot be checked together.
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
    """Return a passed result if nothing was found; else the first problems, each with its shard, and the remedy."""
    lines = [f"{where}: {what}" for where, listed in found.items() for what in listed]
    metadata: dict[str, Any] = {"shards_checked": shards, "problems": len(lines)}
    if lines:
        metadata["first_problems"] = dg.MetadataValue.json(lines[:SHOWN])
        metadata["what_to_do"] = remedy
    return dg.AssetCheckResult(
        passed=not lines, severity=severity, metadata=metadata, description=f"{lines[0]}. {remedy}" if lines else None
    )


def _why(result: dg.AssetCheckEvaluation) -> str:
    """Return the description of a failed result, or the advice in its metadata."""
    advice = result.metadata.get("what_to_do")
    return result.description or (str(advice.value) if advice else "it failed without a description")


def failed_in_words(
    evaluations: Iterable[dg.AssetCheckEvaluation], severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
) -> list[str]:
    """Return a line for each result that failed with this severity; if one failed for many shards, the first few."""
    failed = [one for one in evaluations if not one.passed and one.severity == severity]
    lines = []
    for key, found in groupby(failed, key=lambda one: one.asset_check_key):
        name, results = f"{key.asset_key.to_user_string()}: {key.name}", list(found)
        shards = [one for one in results if one.partition is not None]
        lines += [f"{name}: {_why(one)}" for one in (shards or results)[:SHARDS_NAMED]]
        if len(shards) > SHARDS_NAMED:
            lines.append(f"{name}: and {len(shards) - SHARDS_NAMED} more shards")
    return lines
