"""What the retrieval index costs at scale: seconds, bytes and peak memory of a build and of queries, on `ContextStore`.

Vectors are synthetic: CENTRES random directions in 768 dimensions, Zipf-distributed, with Gaussian noise around them;
texts are words drawn by Zipf's law, 90 a chunk. Clusters flatter an inverted file, so recall on real vectors is lower;
seconds, bytes and memory do not depend on that. Vectors are made batch by batch, so what is measured is the store's
memory and not the script's; the seconds until the rows are in include their making.

    OMP_NUM_THREADS=1 python benchmarks/index_scale.py --chunks 200000 --shards 20
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from el_resources.context_store import ContextStore, ShardChunks

DIMENSION = 768
CENTRES = 2000
WORDS_PER_CHUNK = 90
VOCABULARY = 50_000
BATCH = 4096
NOISE = 0.6


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def centres() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CENTRES, DIMENSION), dtype=np.float32)


def vectors(rng: np.random.Generator, count: int, around: np.ndarray) -> np.ndarray:
    """Rows of length 1 around centres that Zipf's law chooses."""
    chosen = np.minimum(rng.zipf(1.3, count) - 1, CENTRES - 1)
    found = around[chosen] + NOISE * rng.standard_normal((count, DIMENSION), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def batches(shard: int, count: int) -> Iterator[pa.RecordBatch]:
    rng, around = np.random.default_rng(shard + 1), centres()
    for start in range(0, count, BATCH):
        rows = min(BATCH, count - start)
        words = np.minimum(rng.zipf(1.2, (rows, WORDS_PER_CHUNK)), VOCABULARY)
        names = [f"{shard}-{start + row}" for row in range(rows)]
        yield pa.record_batch(
            {
                "chunk_id": names,
                "doc_id": names,
                "content_hash": names,
                "text": [" ".join(f"w{word}" for word in line) for line in words],
                "n_tokens": pa.array([128] * rows, pa.int32()),
                "vector": pa.FixedSizeListArray.from_arrays(vectors(rng, rows, around).ravel(), DIMENSION),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--queries", type=int, default=512)
    options = parser.parse_args()
    per_shard = options.chunks // options.shards
    with tempfile.TemporaryDirectory() as folder:
        started, in_after = time.monotonic(), []
        report = ContextStore(folder).sync(
            {
                str(n): ShardChunks(fingerprint=str(n), batches=partial(batches, n, per_shard))
                for n in range(options.shards)
            },
            settings={},
            on_progress=lambda shard, rows: in_after.append(time.monotonic() - started),
        )
        built, build_peak = time.monotonic() - started, peak_gib()
        size = folder_bytes(Path(folder))
        index = ContextStore(folder).open()
        asked = vectors(np.random.default_rng(10**6), options.queries, centres())
        index.search_dense(asked[:32], 8)
        started = time.monotonic()
        index.search_dense(asked, 8)
        per_second = options.queries / (time.monotonic() - started)
    print("| chunks | rows in, s | indices, s | bytes a chunk | peak GiB, build | queries/s | peak GiB, queries |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {report.n_rows:,} | {in_after[-1]:.0f} | {built - in_after[-1]:.0f} | {size / report.n_rows:,.0f} "
        f"| {build_peak:.1f} | {per_second:.0f} | {peak_gib():.1f} |"
    )


if __name__ == "__main__":
    main()
