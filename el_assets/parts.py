"""The parts that a run can make, in a module without heavy imports, so that `--help` is quick."""

import math
from fractions import Fraction

# Parts made shard by shard -> (kind of source whose shards they have, job that makes them).
SHARDED_PARTS = {
    "index": ("corpus", "build_index"),
    "entropylong": ("corpus", "build_sequences"),
    "gateau": ("instructions", "score_samples"),
}
# Part -> job that makes its assets over all shards; part -> its report.
WHOLE_JOBS = {"gateau": "select_samples"}
REPORTS = {"entropylong": "entropylong_report", "gateau": "gateau_report"}
# Names of the selected subsets, smallest first -> their share of the pool.
FRACTIONS = {f"top_{percent}_percent": Fraction(percent, 100) for percent in (10, 30, 50)}
PARTS = (*SHARDED_PARTS, "reports")


def subset_size(n_samples: int, fraction: str) -> int:
    """Return the number of samples in the named fraction of a pool, rounded up (at least one unless the pool is empty).

    Example:
        >>> subset_size(25, "top_10_percent")
        3
    """
    return math.ceil(n_samples * FRACTIONS[fraction])
