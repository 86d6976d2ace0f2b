"""What a run from the command line consists of; apart, so that `--help` loads nothing."""

# Parts that are made shard by shard: what their shards are shards of, and the job that makes them.
SHARDED_PARTS = {
    "index": ("corpus", "build_index"),
    "entropylong": ("corpus", "build_sequences"),
    "gateau": ("instructions", "score_samples"),
}
# What follows from a part's shards taken together: the job that makes it, and the report on it.
WHOLE_JOBS = {"gateau": "select_samples"}
REPORTS = {"entropylong": "entropylong_report", "gateau": "gateau_report"}
PARTS = (*SHARDED_PARTS, "reports")
