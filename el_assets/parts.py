"""The parts that a run can make, and their jobs, in a module without heavy imports, so that `--help` is quick."""

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that makes tables; each table names its job (el_assets.tables.description.Table).

    Attributes:
        part: the part of a run to which the job belongs.
        over: the partitions of which a run takes a range: the shards of `corpus` or of `instructions`, or `subsets`;
            empty if the job makes tables of all shards together.
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
        description="Make documents and context_chunks of the chosen corpus shards, then update retrieval_index, which "
        "holds all registered shards.",
    ),
    Job(
        name="build_sequences",
        part="entropylong",
        over="corpus",
        description="Make EntropyLong's tables of the chosen corpus shards, from entropy_maps to packed_sequences. "
        "Needs the tables of build_index.",
    ),
    Job(
        name="score_samples",
        part="gateau",
        over="instructions",
        description="Read the chosen instruction shards (instruction_samples) and score every sample: guidance "
        "(hmg_scores) and, unless EL_CAM=false, awareness (cam_scores).",
    ),
    Job(
        name="select_samples",
        part="gateau",
        over="subsets",
        description="Rank the samples of all scored shards by influence (influence_scores), and write the chosen "
        "partitions of selected_subsets. Needs no model.",
    ),
)
# Parts made shard by shard -> (kind of source whose shards they have, job that makes them).
SHARDED_PARTS = {job.part: (job.over, job.name) for job in JOBS if job.is_sharded}
# Part -> its report.
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
