"""Backfills for Dagster's daemon, as the UI's dialog makes them, with what their runs ask a cluster for.

A backfill becomes runs of at most `shards_per_run` shards. Its runs share its tags, so one over index and EntropyLong
holds GPUs while it reads and chunks; ask for the index alone first where that matters.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

# Dagster offers backfills over GraphQL only, to which a web server would have to listen. Its version is pinned exactly.
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.utils import make_new_backfill_id

from el_assets.definitions import defs
from el_assets.partitions import corpus_shards, instruction_shards
from el_assets.parts import SHARDED_PARTS
from el_assets.run_needs import ray_tags
from el_resources.settings import Settings


def submit_backfill(
    instance: dg.DagsterInstance, settings: Settings, parts: Sequence[str], chosen: Mapping[str, Sequence[str]]
) -> str:
    """Add a backfill of the parts' assets over the chosen shards; returns its id. The daemon launches its runs.

    GATEAU's ranking and subsets are about the pool and not about shards: the job select_samples makes them afterwards.

    Args:
        parts: of SHARDED_PARTS.
        chosen: shards by what they are shards of, `corpus` or `instructions`.
    """
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags=ray_tags(settings, parts),
        dynamic_partitions_store=instance,
        asset_graph_subset=AssetGraphSubset.from_asset_partition_set(
            set(_asset_partitions(parts, chosen)), defs.resolve_asset_graph()
        ),
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def _asset_partitions(parts: Sequence[str], chosen: Mapping[str, Sequence[str]]) -> Iterator[AssetKeyPartitionKey]:
    graph = defs.resolve_asset_graph()
    jobs = [defs.resolve_job_def(SHARDED_PARTS[part][1]) for part in parts]
    for asset in {key for job in jobs for key in job.asset_layer.selected_asset_keys}:
        partitions = graph.get(asset).partitions_def
        for partition in _keys(partitions, chosen):
            yield AssetKeyPartitionKey(asset, partition)


def _keys(partitions: dg.PartitionsDefinition | None, chosen: Mapping[str, Sequence[str]]) -> Sequence[str | None]:
    if partitions is None:
        return [None]
    if partitions == corpus_shards:
        return chosen["corpus"]
    assert partitions == instruction_shards, partitions
    return chosen["instructions"]
