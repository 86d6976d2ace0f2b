"""Measure the retrieval index at scale: seconds, bytes, peak memory and recall of `ContextStore`.

Vectors are synthetic: CENTRES random directions in 768 dimensions, Zipf-distributed, with Gaussian noise around them;
texts are words drawn by Zipf's law, 90 a chunk. Recall is the share of the K nearest by a plain product with every
vector that the index finds too: for queries drawn as the vectors are, which clusters flatter, and for random
directions, to which nothing is near, so that the nearest may be in any partition. Real queries are between the two.
Seconds, bytes and memory do not depend on that. Vectors are made batch by batch, so what is measured is the store's
memory and not the script's; the seconds until the rows are in include their making. CPU seconds are of all threads, and
tell more than seconds if other work runs at the same time. Linux only: peaks are the kernel's.

    OMP_NUM_THREADS=1 python benchmarks/index_scale.py --chunks 200000 --shards 20

Many tiny shards, whose commits are what costs:

    OMP_NUM_THREADS=1 python benchmarks/index_scale.py --chunks 20000 --shards 10000
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from el_resources.store.context_store import ContextStore
from el_resources.store.index_rows import ShardChunks

DIMENSION = 768
CENTRES = 2000
WORDS_PER_CHUNK = 90
VOCABULARY = 50_000
BATCH = 4096
NOISE = 0.6
K = 8


def peak_gib() -> float:
    """This process's peak memory since the last call."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) / 2**20


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@cache
def centres() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CENTRES, DIMENSION), dtype=np.float32)


def vectors(rng: np.random.Generator, count: int, around: np.ndarray) -> np.ndarray:
    """Rows of length 1 around centres that Zipf's law chooses."""
    chosen = np.minimum(rng.zipf(1.3, count) - 1, CENTRES - 1)
    found = around[chosen] + NOISE * rng.standard_normal((count, DIMENSION), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def vector_batches(shard: int, count: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and vectors of a shard's chunks."""
    rng, around = np.random.default_rng([shard, 0]), centres()
    for start in range(0, count, BATCH):
        rows = min(BATCH, count - start)
        yield [f"{shard}-{start + row}" for row in range(rows)], vectors(rng, rows, around)


def batches(shard: int, count: int) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng([shard, 1])
    for names, found in vector_batches(shard, count):
        words = np.minimum(rng.zipf(1.2, (len(names), WORDS_PER_CHUNK)), VOCABULARY)
        yield pa.record_batch(
            {
                "chunk_id": names,
                "doc_id": names,
                "content_hash": names,
                "text": [" ".join(f"w{word}" for word in line) for line in words],
                "n_tokens": pa.array([128] * len(names), pa.int32()),
                "vector": pa.FixedSizeListArray.from_arrays(found.ravel(), DIMENSION),
            }
        )


def exact_nearest(asked: np.ndarray, shards: int, per_shard: int) -> list[list[str]]:
    """Names of the K chunks nearest to each query, in no order: a product with every vector."""
    best = np.full((len(asked), K), -np.inf, dtype=np.float32)
    where = np.zeros((len(asked), K), dtype=np.int64)
    row = 0
    for shard in range(shards):
        for names, found in vector_batches(shard, per_shard):
            similarity = np.hstack([best, asked @ found.T])
            places = np.hstack([where, np.tile(np.arange(row, row + len(names)), (len(asked), 1))])
            kept = np.argpartition(-similarity, K, axis=1)[:, :K]
            best, where = np.take_along_axis(similarity, kept, 1), np.take_along_axis(places, kept, 1)
            row += len(names)
    return [[f"{place // per_shard}-{place % per_shard}" for place in line] for line in where.tolist()]


def recall(found: pl.DataFrame, exact: list[list[str]]) -> float:
    nearest = pl.DataFrame({"query_index": range(len(exact)), "chunk_id": exact}).explode("chunk_id")
    return nearest.join(found, on=["query_index", "chunk_id"], how="semi").height / nearest.height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=200_000, help="chunks of all shards (default: 200000)")
    parser.add_argument("--shards", type=int, default=20, help="shards (default: 20)")
    parser.add_argument("--queries", type=int, default=512, help="queries (default: 512)")
    parser.add_argument("--folder", help="where the store is made and kept (default: a temporary folder)")
    options = parser.parse_args()
    per_shard = options.chunks // options.shards
    with tempfile.TemporaryDirectory() if options.folder is None else nullcontext(options.folder) as folder:
        started, in_after, peaks = time.monotonic(), [], []

        def on_progress(shard: str, rows: int) -> None:
            in_after.append(time.monotonic() - started)
            if len(in_after) % max(options.shards // 100, 1) == 0:
                peaks.append(peak_gib())
                print(f"shard {shard}: {in_after[-1]:.0f} s, peak {peaks[-1]:.2f} GiB", file=sys.stderr, flush=True)

        report = ContextStore(folder).sync(
            {
                str(n): ShardChunks(fingerprint=str(n), n_rows=per_shard, batches=partial(batches, n, per_shard))
                for n in range(options.shards)
            },
            settings={},
            on_progress=on_progress,
        )
        built, build_cpu, build_peak = time.monotonic() - started, time.process_time(), peak_gib()
        size = folder_bytes(Path(folder))
        index = ContextStore(folder).open()
        rng = np.random.default_rng(10**6)
        alike = vectors(rng, options.queries, centres())
        anywhere = rng.standard_normal(alike.shape, dtype=np.float32)
        index.search_dense(alike[:32], K)
        started, cpu_started = time.monotonic(), time.process_time()
        found = [index.search_dense(asked, K) for asked in (alike, anywhere)]
        n_asked, query_peak = 2 * options.queries, peak_gib()
        per_second, cpu = n_asked / (time.monotonic() - started), (time.process_time() - cpu_started) / n_asked
    exact = exact_nearest(np.vstack([alike, anywhere]), options.shards, per_shard)
    of_alike, of_anywhere = recall(found[0], exact[: options.queries]), recall(found[1], exact[options.queries :])
    print(
        "| chunks | rows in, s | indices, s | CPU s | bytes a chunk | peak GiB: rows, indices, queries | queries/s |",
        end="",
    )
    print(" CPU ms a query | recall: as vectors, random |\n|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {report.n_rows:,} | {in_after[-1]:.0f} | {built - in_after[-1]:.0f} | {build_cpu:.0f} "
        f"| {size / report.n_rows:,.0f} | {max(peaks):.1f}, {build_peak:.1f}, {query_peak:.1f} | {per_second:.0f} "
        f"| {1000 * cpu:.0f} | {of_alike:.3f}, {of_anywhere:.3f} |"
    )


if __name__ == "__main__":
    main()
