"""The state of all registered shards of a source, under the settings."""

import dagster as dg

from el_assets.gateau.assets import open_instructions_of
from el_assets.operations.staleness import Inventory
from el_assets.partitions import ShardedSource, instruction_shards, registered_shards
from el_assets.tables.shard_runs import open_corpus_of
from el_resources.settings import Settings


def corpus_inventory(
    instance: dg.DagsterInstance, settings: Settings, source: ShardedSource | None = None, *, verify: bool = False
) -> Inventory:
    """Return the state of the registered shards of the corpus, which is opened unless it is given."""
    return Inventory(settings, source or open_corpus_of(settings), registered_shards(instance), verify=verify)


def pool_inventory(
    instance: dg.DagsterInstance, settings: Settings, source: ShardedSource | None = None, *, verify: bool = False
) -> Inventory:
    """Return the state of the registered shards of samples, whose source is opened unless it is given."""
    registered = registered_shards(instance, instruction_shards)
    return Inventory(settings, source or open_instructions_of(settings), registered, verify=verify)
