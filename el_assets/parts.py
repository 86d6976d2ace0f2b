"""What a run from the command line consists of; apart, so that `--help` loads nothing."""

# Parts that are made shard by shard: what their shards are shards of, and the job that makes them.
SHARDED_PARTS = {
    "index": ("corpus", "build_index"),
    "entropylong": ("corpus", "build_sequences"),
    "gateau": ("instructions", "score_samples"),
}
PARTS = (*SHARDED_PARTS, "reports")
