"""Backfills for Dagster's daemon, like those of the UI's dialog, with the resources that their runs need on a cluster.

A backfill becomes runs of at most `shards_per_run` shards, and all of them have its tags. So a backfill of index and
EntropyLong holds GPUs while it reads and chunks documents; start one of the index alone first if that matters. GATEAU's
ranking, its subsets and the reports are separate runs at the end, which hold a GPU while they last.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

# Dagster offers backfills by GraphQL only, which needs a web server; so its internals are used, at a pinned version.
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.utils import make_new_backfill_id

from el_assets.operations.run_needs import launches_on_ray, ray_tags
from el_assets.partitions import selected_fractions
from el_assets.parts import FRACTIONS, JOBS, REPORTS
from el_assets.sources import KINDS
from el_assets.workspace import build_definitions
from el_resources.settings import Settings


def submit_backfill(
    instance: dg.DagsterInstance,
    settings: Settings,
    parts: Sequence[str],
    chosen: Mapping[str, Sequence[str]],
    fractions: Sequence[str] = tuple(FRACTIONS),
) -> str:
    """Add a backfill of the parts' assets over the chosen shards, and return its id. The daemon launches its runs.

    Assets over all shards (the index, GATEAU's ranking and subsets, the reports) are made once, after the chosen shards
    are done. If one of the shards fails, the daemon does not launch them.

    Args:
        parts: names from PARTS; `reports` means the reports on the other parts.
        chosen: shards of each kind of source, `corpus` and `instructions`.
        fractions: subsets to select.
    """
    definitions = build_definitions(settings)
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags=ray_tags(settings, parts, on_ray=launches_on_ray(instance)),
        dynamic_partitions_store=instance,
        asset_graph_subset=AssetGraphSubset.from_asset_partition_set(
            set(_asset_partitions(definitions, parts, {**chosen, "subsets": fractions})),
            definitions.resolve_asset_graph(),
        ),
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def _asset_partitions(
    definitions: dg.Definitions, parts: Sequence[str], chosen: Mapping[str, Sequence[str]]
) -> Iterator[AssetKeyPartitionKey]:
    graph = definitions.resolve_asset_graph()
    for asset in _assets(definitions, parts):
        for partition in _keys(graph.get(asset).partitions_def, chosen):
            yield AssetKeyPartitionKey(asset, partition)


def _assets(definitions: dg.Definitions, parts: Sequence[str]) -> set[dg.AssetKey]:
    names = [job.name for job in JOBS if job.part in parts]
    made = {key for name in names for key in definitions.resolve_job_def(name).asset_layer.selected_asset_keys}
    reports = {dg.AssetKey(REPORTS[part]) for part in parts if part in REPORTS}
    return made | reports if "reports" in parts else made


def _keys(partitions: dg.PartitionsDefinition | None, chosen: Mapping[str, Sequence[str]]) -> Sequence[str | None]:
    if partitions is None:
        return [None]
    if partitions == selected_fractions:
        return chosen["subsets"]
    return next(chosen[kind.name] for kind in KINDS.values() if kind.partitions == partitions)
