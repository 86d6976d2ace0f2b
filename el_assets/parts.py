"""The parts of a run from the command line and their jobs. The module imports little, so that `--help` is quick."""

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that makes tables; those name it (el_assets.tables.description.Table).

    Attributes:
        part: the part of a run that it is of.
        over: the partitions that its runs take a range of: the shards of `corpus` or of `instructions`, or `subsets`;
            empty if it makes tables of all shards together.
    """

    name: str
    part: str
    over: str = ""
    description: str

    @property
    def is_sharded(self) -> bool:
        """True if it makes a table for each shard of a source."""
        return self.over in ("corpus", "instructions")


# In the order in which a run executes them.
JOBS = (
    Job(
        name="build_index",
        part="index",
        over="corpus",
        description="Read the chosen corpus shards, split documents into chunks, and update the retrieval index.",
    ),
    Job(
        name="build_sequences",
        part="entropylong",
        over="corpus",
        description="Make EntropyLong's tables of the chosen corpus shards, from entropy_maps to packed_sequences.",
    ),
    Job(
        name="score_samples",
        part="gateau",
        over="instructions",
        description="Make GATEAU's scores of the chosen instruction shards: guidance and awareness of every sample.",
    ),
    Job(
        name="select_samples",
        part="gateau",
        over="subsets",
        description="Rank all scored samples by influence and write the selected subsets; needs no model.",
    ),
)
# Parts that are made shard by shard: what their shards are shards of, and the job that makes them.
SHARDED_PARTS = {job.part: (job.over, job.name) for job in JOBS if job.is_sharded}
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
