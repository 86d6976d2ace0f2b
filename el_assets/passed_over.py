"""Say at registration which files of a source are no shards: nothing is left out without a word."""

from el_assets.partitions import ShardedSource
from el_resources.not_shards import lines


def passed_over_lines(source: ShardedSource) -> list[str]:
    """A line for each reason why something in the source is no shard: how many, why, and the first names.

    Example:
        >>> passed_over_lines(source)
        ['  passed over: 2 hidden: the name begins with a dot (.ipynb_checkpoints, ._a.jsonl)']
    """
    return [f"  passed over: {line}" for line in lines(source.passed_over())]


def print_passed_over(source: ShardedSource) -> None:
    for line in passed_over_lines(source):
        print(line, flush=True)
