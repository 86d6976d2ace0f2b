"""Shards and fractions: what tables are partitioned by.

Corpus and instruction shards are dynamic partitions, registered by `python -m el_assets` or a sensor, never while
definitions load.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import dagster as dg

from el_assets.parts import FRACTIONS
from el_resources.listed_names import listed
from el_resources.sources.contracts import ShardedSource
from el_resources.sources.shard_files import still_there

HOW_TO_REGISTER = "`python -m el_assets register` registers them, and so does `run`, which makes their tables"
corpus_shards = dg.DynamicPartitionsDefinition(name="corpus_shards")
instruction_shards = dg.DynamicPartitionsDefinition(name="instruction_shards")
selected_fractions = dg.StaticPartitionsDefinition(list(FRACTIONS))


def registered_shards(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition = corpus_shards
) -> list[str]:
    """Shards of the instance, in registration order."""
    return list(instance.get_dynamic_partitions(_name(partitions)))


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The outcome of a registration.

    Attributes:
        shards: all registered shards in registration order, by which Dagster reads ranges. It is the source's own order
            until shards are added later: those come last.
        went: shards that were registered before and are not any more; their tables stay on disk, unused.
        was_of: the source that those were shards of, if that is another one.
    """

    shards: list[str]
    went: list[str] = field(default_factory=list)
    was_of: str = ""

    def in_words(self) -> Iterator[str]:
        """Yield a line on the shards that are not registered any more, if there are any."""
        if self.went:
            of = f"of {self.was_of}, registered before, are" if self.was_of else "whose files are gone are"
            yield f"{len(self.went)} shards {of} not registered any more: {listed(self.went)}. Their tables stay"


def register_shards(
    instance: dg.DagsterInstance,
    source: ShardedSource,
    partitions: dg.DynamicPartitionsDefinition = corpus_shards,
    *,
    may_lose_many: bool = False,
) -> Registration:
    """Make the registered shards those of the source.

    The instance remembers which source its shards are of. Those of another source, with no shard in common, are
    replaced; of the same source never more than half go at once, because that is what a faulty source looks like. A
    shard whose file is only passed over now stays.

    Args:
        may_lose_many: let more than half go (`remove_many_shards`).

    Raises:
        ValueError: the source lists no shard, or has lost too many.
    """
    shards = source.shards()
    if not shards:
        raise ValueError(f"{source.uri!r} has no shard; check the address in EL_CORPUS or EL_INSTRUCTIONS")
    before, was_of = registered_shards(instance, partitions), registered_source(instance, partitions)
    went = [shard for shard in before if shard not in set(shards)]
    held = still_there(went, source.passed_over())
    went = [shard for shard in went if shard not in held]
    is_same = was_of in ("", source.uri) or bool(set(before) & set(shards))
    if is_same and went_in_masses(len(went), len(before)) and not may_lose_many:
        raise ValueError(
            f"{len(went)} of {len(before)} registered shards are gone from {source.uri!r}, which is more than half: "
            f"{listed(went)}. Nothing was changed; repair the source, or set EL_REMOVE_MANY_SHARDS=true to "
            "remove them"
        )
    deregister_shards(instance, went, partitions)
    instance.add_dynamic_partitions(_name(partitions), shards)
    instance.daemon_cursor_storage.set_cursor_values({_source_key(partitions): source.uri})
    return Registration(shards=registered_shards(instance, partitions), went=went, was_of="" if is_same else was_of)


def went_in_masses(n_went: int, n_registered: int) -> bool:
    """Return true if more than half of the shards left a source at once, so that the source is taken for faulty."""
    return 2 * n_went > n_registered


def registered_source(instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition) -> str:
    """Return the source that the registered shards are of; empty if the instance does not know."""
    key = _source_key(partitions)
    return instance.daemon_cursor_storage.get_cursor_values({key}).get(key, "")


def _source_key(partitions: dg.DynamicPartitionsDefinition) -> str:
    return f"entropylong/source_of/{_name(partitions)}"


def deregister_shards(
    instance: dg.DagsterInstance, shards: Iterable[str], partitions: dg.DynamicPartitionsDefinition
) -> None:
    """Take shards out of those that Dagster knows; their tables are left."""
    for shard in shards:
        instance.delete_dynamic_partition(_name(partitions), shard)


def _name(partitions: dg.DynamicPartitionsDefinition) -> str:
    assert partitions.name, "the workspace's dynamic partitions are named"
    return partitions.name


def contiguous_ranges(wanted: set[str], registered: Sequence[str], *, most: int = sys.maxsize) -> list[tuple[str, str]]:
    """The fewest (first, last) ranges, in registration order, that hold the wanted shards and no other.

    Args:
        most: shards that a range may hold.
    """
    ranges: list[tuple[str, str]] = []
    n_held = 0
    for shard in registered:
        if shard not in wanted:
            n_held = 0
            continue
        if n_held == most:
            n_held = 0
        first = ranges.pop()[0] if n_held else shard
        ranges.append((first, shard))
        n_held += 1
    return ranges
