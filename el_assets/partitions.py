"""Corpus shards: dynamic partitions, registered by `python -m el_assets`, never while definitions load."""

import dagster as dg

from el_resources.corpus_source import CorpusSource

corpus_shards = dg.DynamicPartitionsDefinition(name="corpus_shards")


def registered_shards(instance: dg.DagsterInstance) -> list[str]:
    """Corpus shards of the instance, in registration order."""
    return list(instance.get_dynamic_partitions("corpus_shards"))


def register_shards(instance: dg.DagsterInstance, source: CorpusSource) -> list[str]:
    """Make the registered shards those of the source; tables of shards that went stay on disk, unused.

    Returns:
        The shards in registration order, by which Dagster reads ranges. It is the source's own order until shards are
        added later: those come last.

    Raises:
        ValueError: the source lists no shard.
    """
    shards = source.shards()
    if not shards:
        raise ValueError(f"the corpus {source.uri!r} has no shard; check EL_CORPUS")
    for gone in sorted(set(registered_shards(instance)) - set(shards)):
        instance.delete_dynamic_partition("corpus_shards", gone)
    instance.add_dynamic_partitions("corpus_shards", shards)
    return registered_shards(instance)


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
