"""Settings of runs, sensors and schedules, and the seed; `Settings` joins the groups."""

from pydantic import BaseModel, Field


class RunSettings(BaseModel):
    """Settings of runs, sensors and schedules, and the seed."""

    seed: int = Field(
        default=0, ge=0, description="Seed of root sampling, controls and shuffles; another seed draws other roots."
    )
    exact_search_rows: int = Field(
        default=100_000,
        ge=0,
        description="Number of chunks up to which dense retrieval is exact. For more chunks an approximate index is "
        "built, which is faster and may miss some neighbours.",
    )
    cores_per_run: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="CPU cores that a run requests from a Ray cluster (EL_EXECUTION=ray).",
    )
    gpus_per_run: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="GPUs that a run requests from a Ray cluster (EL_EXECUTION=ray) if it loads a model. Set 0 for "
        "a cluster without GPUs; a run uses one at most.",
    )
    force: bool = Field(
        default=False, description="Make the tables of the chosen shards again even if they are up to date."
    )
    replace_by_empty: bool = Field(
        default=False,
        description="Let an empty table replace one that a model scored. If it is off, the run stops before "
        "anything is written, since the scores were costly.",
    )
    refresh_candidates: bool = Field(
        default=False,
        description="Retrieve candidates again for shards whose candidates come from an older build of the index. "
        "Only pairs that were never scored cost a forward.",
    )
    watch_every_seconds: int = Field(
        default=300,
        ge=5,
        le=86_400,
        description="Seconds between the sensors' listings of the sources for new, changed or removed shards; read "
        "when definitions load.",
    )
    backfill_every_hours: int = Field(
        default=24,
        ge=1,
        le=24,
        description="Hours between the schedules' requests for missing or stale tables; read when definitions load.",
    )
    shards_per_run: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Most shards, in sequence, that one run takes if the shell, a schedule or a backfill starts it. "
        "Each run loads its models once, so more shards save loading.",
    )
    remove_many_shards: bool = Field(
        default=False,
        description="Let a sensor remove shards and their tables even if more than half of the registered ones are "
        "gone from the source at once. Otherwise that is taken for a fault of the source, and nothing "
        "is removed.",
    )
