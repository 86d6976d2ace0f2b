"""Lines on everything that is left out of a source: files that are no shards, and rows that cannot be read."""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from el_resources.sources.bad_rows import BAD_ROW_REASONS
from el_resources.sources.contracts import ShardedSource
from el_resources.sources.not_shards import lines
from el_resources.store.shard_tables import ShardTables

ROWS_SHOWN = 5
# Table -> column that names the row in its file and what is wrong with it.
DETAILS = {"documents": "set_aside_detail", "instruction_samples": "detail"}


def passed_over_lines(source: ShardedSource) -> list[str]:
    """Return a line for each reason why files of the source are no shards: how many, why, and the first names.

    Example:
        `passed over: 2 hidden: the name begins with a dot (.ipynb_checkpoints, ._a.jsonl)`
    """
    return [f"  passed over: {line}" for line in lines(source.passed_over())]


def print_passed_over(source: ShardedSource) -> None:
    """Print the lines on files of the source that are no shards."""
    for line in passed_over_lines(source):
        print(line, flush=True)


def bad_row_lines(tables: ShardTables, table: str, shards: Sequence[str]) -> Iterator[str]:
    """Yield a line for each of the first rows that cannot be read, with file and row, and one that counts the rest.

    Example:
        `a.jsonl: line 3 has 70,000,000 bytes, more than EL_LINE_MIB_MAX=64 allows`
    """
    stamps = tables.stamps(table, shards)
    counts = {shard: _bad_rows(stamp.facts.get("set_aside", {})) for shard, stamp in stamps.items()}
    left = ROWS_SHOWN
    for shard in [shard for shard, count in counts.items() if count]:
        if not left:
            break
        is_bad = pl.col("set_aside_reason").is_in(sorted(BAD_ROW_REASONS))
        frame = tables.scan(table, shard).filter(is_bad).select(DETAILS[table], "set_aside_reason").head(left).collect()
        yield from (f"{shard}: {detail or reason}" for detail, reason in frame.iter_rows())
        left -= frame.height
    if (more := sum(counts.values()) - ROWS_SHOWN) > 0:
        yield f"{more:,} more rows; the column {DETAILS[table]} of {table} names each"


def _bad_rows(set_aside: Mapping[str, int]) -> int:
    return sum(count for reason, count in set_aside.items() if reason in BAD_ROW_REASONS)
