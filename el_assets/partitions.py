"""Shards and fractions: what tables are partitioned by.

Corpus and instruction shards are dynamic partitions, registered by `python -m el_assets` or a sensor, never while
definitions load.
"""

from collections.abc import Iterable
from typing import Protocol

import dagster as dg

from el_assets.parts import FRACTIONS

corpus_shards = dg.DynamicPartitionsDefinition(name="corpus_shards")
instruction_shards = dg.DynamicPartitionsDefinition(name="instruction_shards")
selected_fractions = dg.StaticPartitionsDefinition(list(FRACTIONS))


class ShardedSource(Protocol):
    """A corpus or a pool of instruction samples."""

    @property
    def uri(self) -> str: ...

    def shards(self) -> list[str]: ...

    def shard_fingerprint(self, shard: str) -> str: ...


def registered_shards(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition = corpus_shards
) -> list[str]:
    """Shards of the instance, in registration order."""
    return list(instance.get_dynamic_partitions(_name(partitions)))


def register_shards(
    instance: dg.DagsterInstance,
    source: ShardedSource,
    partitions: dg.DynamicPartitionsDefinition = corpus_shards,
) -> list[str]:
    """Make the registered shards those of the source; tables of shards that went stay on disk, unused.

    Returns:
        The shards in registration order, by which Dagster reads ranges. It is the source's own order until shards are
        added later: those come last.

    Raises:
        ValueError: the source lists no shard.
    """
    shards = source.shards()
    if not shards:
        raise ValueError(f"{source.uri!r} has no shard; check EL_CORPUS and EL_INSTRUCTIONS")
    deregister_shards(instance, sorted(set(registered_shards(instance, partitions)) - set(shards)), partitions)
    instance.add_dynamic_partitions(_name(partitions), shards)
    return registered_shards(instance, partitions)


def deregister_shards(
    instance: dg.DagsterInstance, shards: Iterable[str], partitions: dg.DynamicPartitionsDefinition
) -> None:
    """Take shards out of those that Dagster knows; their tables are left."""
    for shard in shards:
        instance.delete_dynamic_partition(_name(partitions), shard)


def _name(partitions: dg.DynamicPartitionsDefinition) -> str:
    assert partitions.name, "the workspace's dynamic partitions are named"
    return partitions.name


def contiguous_ranges(wanted: set[str], registered: list[str]) -> list[tuple[str, str]]:
    """The fewest (first, last) ranges, in registration order, that hold the wanted shards and no other."""
    ranges: list[tuple[str, str]] = []
    previous_is_wanted = False
    for shard in registered:
        if shard in wanted:
            first = ranges.pop()[0] if previous_is_wanted else shard
            ranges.append((first, shard))
        previous_is_wanted = shard in wanted
    return ranges
