"""The partitions of tables: shards of the corpus, shards of the instruction samples, and fractions of the pool.

Shards are dynamic partitions. `python -m el_assets` or a sensor registers them, never the loading of definitions.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import dagster as dg

from el_assets.parts import FRACTIONS
from el_resources.listed_names import listed
from el_resources.sources.contracts import ShardedSource
from el_resources.sources.shard_files import still_there

HOW_TO_REGISTER = "`python -m el_assets register` registers them; `run` does so too, and makes their tables"
corpus_shards = dg.DynamicPartitionsDefinition(name="corpus_shards")
instruction_shards = dg.DynamicPartitionsDefinition(name="instruction_shards")
selected_fractions = dg.StaticPartitionsDefinition(list(FRACTIONS))


def registered_shards(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition = corpus_shards
) -> list[str]:
    """Return the registered shards of the instance, in registration order."""
    return list(instance.get_dynamic_partitions(_name(partitions)))


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The outcome of a registration.

    Attributes:
        shards: all registered shards in registration order, which defines Dagster's ranges: first in the order of the
            source, then those that were added later.
        went: shards that are no longer registered; their tables stay in the store, unused.
        was_of: the source of those shards, if it was another one.
    """

    shards: list[str]
    went: list[str] = field(default_factory=list)
    was_of: str = ""

    def in_words(self) -> Iterator[str]:
        """Yield a line about the shards that are no longer registered, if there are any."""
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
    """Register the shards of the source, and deregister those that it no longer lists.

    The instance records the source of its shards. If they are of another source, and none of them is in this one, all
    are replaced. If they are of this source, at most half of them are deregistered at once, since a faulty source often
    lists too few. A shard stays registered if its file exists but is passed over.

    Args:
        may_lose_many: deregister more than half if need be (`remove_many_shards`).

    Raises:
        ValueError: the source lists no shard, or more than half of the shards are gone.
    """
    shards = source.shards()
    if not shards:
        raise ValueError(f"{source.uri!r} has no shard; check the address in EL_CORPUS or EL_INSTRUCTIONS")
    # Find missing shards.
    before, was_of = registered_shards(instance, partitions), registered_source(instance, partitions)
    went = [shard for shard in before if shard not in set(shards)]
    held = still_there(went, source.passed_over())
    went = [shard for shard in went if shard not in held]
    # Refuse a faulty source.
    is_same = was_of in ("", source.uri) or bool(set(before) & set(shards))
    if is_same and went_in_masses(len(went), len(before)) and not may_lose_many:
        raise ValueError(
            f"{len(went)} of {len(before)} registered shards are gone from {source.uri!r}, which is more than half: "
            f"{listed(went)}. Nothing was changed; repair the source, or set EL_REMOVE_MANY_SHARDS=true to "
            "remove them"
        )
    # Change the registration.
    deregister_shards(instance, went, partitions)
    instance.add_dynamic_partitions(_name(partitions), shards)
    instance.daemon_cursor_storage.set_cursor_values({_source_key(partitions): source.uri})
    return Registration(shards=registered_shards(instance, partitions), went=went, was_of="" if is_same else was_of)


def went_in_masses(n_went: int, n_registered: int) -> bool:
    """Return true if more than half of the shards are gone at once, which suggests that the source is faulty."""
    return 2 * n_went > n_registered


def registered_source(instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition) -> str:
    """Return the address of the source of the registered shards; empty if it is not recorded."""
    key = _source_key(partitions)
    return instance.daemon_cursor_storage.get_cursor_values({key}).get(key, "")


def _source_key(partitions: dg.DynamicPartitionsDefinition) -> str:
    return f"entropylong/source_of/{_name(partitions)}"


def deregister_shards(
    instance: dg.DagsterInstance, shards: Iterable[str], partitions: dg.DynamicPartitionsDefinition
) -> None:
    """Remove shards from those that Dagster knows; their tables stay."""
    for shard in shards:
        instance.delete_dynamic_partition(_name(partitions), shard)


def _name(partitions: dg.DynamicPartitionsDefinition) -> str:
    assert partitions.name, "the workspace's dynamic partitions are named"
    return partitions.name


def contiguous_ranges(wanted: set[str], registered: Sequence[str], *, most: int = sys.maxsize) -> list[tuple[str, str]]:
    """Return the fewest ranges (first, last), in registration order, that hold the wanted shards and no others.

    Args:
        most: most shards of a range.
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
