"""The parts of a run from the command line, in a module without imports, so that `--help` is quick."""

import math
from fractions import Fraction

# Parts that are made shard by shard: what their shards are shards of, and the job that makes them.
SHARDED_PARTS = {
    "index": ("corpus", "build_index"),
    "entropylong": ("corpus", "build_sequences"),
    "gateau": ("instructions", "score_samples"),
}
# What follows from a part's shards taken together: the job that makes it, and the report on it.
WHOLE_JOBS = {"gateau": "select_samples"}
REPORTS = {"entropylong": "entropylong_report", "gateau": "gateau_report"}
# The selected subsets, smallest first: each one's share of the pool.
FRACTIONS = {f"top_{percent}_percent": Fraction(percent, 100) for percent in (10, 30, 50)}
PARTS = (*SHARDED_PARTS, "reports")


def subset_size(n_samples: int, fraction: str) -> int:
    """Return the number of samples in the named fraction of a pool, rounded up: at least one of a pool that has one.

    Example:
        >>> subset_size(25, "top_10_percent")
        3
    """
    return math.ceil(n_samples * FRACTIONS[fraction])
