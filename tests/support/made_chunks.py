"""Chunks of shards as the retrieval index takes them: random vectors, and texts that name shard and state."""

import numpy as np
import polars as pl

from el_resources.store.index_rows import ShardChunks

DIMENSION = 8
SETTINGS = {"encoder": "test"}


def chunks_frame(shard: str, texts: list[str], *, doc_ids: list[str] | None = None, seed: int = 0) -> pl.DataFrame:
    vectors = np.random.default_rng(seed).normal(size=(len(texts), DIMENSION)).astype(np.float32)
    return pl.DataFrame(
        {
            "chunk_id": [f"{shard}-{i:03}" for i in range(len(texts))],
            "doc_id": doc_ids or [f"{shard}-doc{i // 2}" for i in range(len(texts))],
            "content_hash": [f"hash of {text}" for text in texts],
            "text": texts,
            "n_tokens": pl.Series([len(text.split()) for text in texts], dtype=pl.Int32),
            "start_char": [0] * len(texts),
            "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, DIMENSION)),
        }
    )


def as_chunks(frame: pl.DataFrame, fingerprint: str) -> ShardChunks:
    return ShardChunks(
        fingerprint=fingerprint,
        n_rows=frame.height,
        batches=lambda: iter(frame.to_arrow().to_batches(max_chunksize=3)),
    )


def shard(name: str, n: int = 10, *, fingerprint: str = "1", seed: int = 0) -> ShardChunks:
    texts = [f"passage {i} of {name} in state {fingerprint}" for i in range(n)]
    return as_chunks(chunks_frame(name, texts, seed=seed), fingerprint)
