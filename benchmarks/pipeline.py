"""Share of time in which a GPU is busy while whole shards become entropy maps, from reading to writing tables.

    python benchmarks/pipeline.py --shape 1b            # one GPU
    python benchmarks/pipeline.py --wait 4              # no GPU: the host's time around an engine that only waits

The step is that of the asset `entropy_maps` (reading, tokenizing, scoring, building and writing tables), without
Dagster, shard by shard. Documents are cut at random places from Python's help topics,
with log-normal lengths (median 800 tokens, at most 4,095); the tokenizer is the reference model's. Weights are random.
Busy is the share of the time in which the GPU runs a kernel or a copy, by torch's profiler.
"""

import argparse
import pydoc_data.topics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scoring_bench import SHAPES, busy_share, compile_layers, open_bench

from el_assets.catalogue import TABLES
from el_assets.entropylong.steps import map_entropy
from el_assets.tables.schemas import conform, polars_schema
from el_assets.tables.shard_assets import ShardStep
from el_assets.tables.shard_runs import Made
from el_resources.models.causal_lm import ModelChoice
from el_resources.scoring.requests import checked_requests
from el_resources.scoring.results import TokenScores
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp

CHARS_PER_TOKEN = 3.3
SEED = 0


class WaitingEngine:
    """A substitute for a scoring engine on a GPU: every call leaves the host idle for `call_seconds`."""

    window, vocab_size, device, dtype = 131_072, 128_256, torch.device("cpu"), "float32"

    def __init__(self, call_seconds: float) -> None:
        self.call_seconds = call_seconds
        self.forwards, self.tokens, self.seconds = 0, 0, 0.0

    def score(self, sequences: Sequence[NDArray[Any]], on_progress: Callable[[int], None]) -> list[TokenScores]:
        checked_requests(sequences, window=self.window, vocab_size=self.vocab_size)
        time.sleep(self.call_seconds)
        self.seconds += self.call_seconds
        self.tokens += sum(map(len, sequences))
        some = np.random.default_rng(SEED).random(max(map(len, sequences)), dtype=np.float32)
        return [TokenScores(entropy_nats=some[: len(ids)], nll_nats=some[: len(ids)]) for ids in sequences]


def write_documents(tables: ShardTables, shards: list[str], n_documents: int) -> None:
    """Write tables of documents in which only the columns that a root needs are filled."""
    random = np.random.default_rng(SEED)
    text = "\n".join(pydoc_data.topics.topics.values())
    for shard in shards:
        lengths = np.clip(np.exp(random.normal(np.log(800), 0.8, n_documents)), 64, 4095) * CHARS_PER_TOKEN
        starts = random.integers(0, len(text) - int(lengths.max()), n_documents)
        rows = [
            {"doc_id": f"{shard}-{number}", "content_hash": str(number), "text": text[start : start + int(length)]}
            for number, (start, length) in enumerate(zip(starts, lengths, strict=True))
        ]
        frame = pl.DataFrame(rows)
        absent = [pl.lit(None, dtype).alias(name) for name, dtype in polars_schema("documents").items()]
        frame = frame.with_columns(column for column in absent if column.meta.output_name() not in frame.columns)
        assert set(frame.columns) == set(TABLES["documents"].columns)
        tables.write(conform(frame, "documents"), Stamp(asset="documents", partition=shard, recipe="benchmark"))


@contextmanager
def quiet(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=[*SHAPES, "reference"], default="1b", help="size of the model (default: 1b)")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="use no model: each engine call waits SECONDS")
    parser.add_argument("--shards", type=int, default=6, help="shards (default: 6)")
    parser.add_argument("--documents", type=int, default=800, help="documents per shard (default: 800)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    bench = open_bench(arguments.shape, arguments.device, scale=1.0, roots=None) if arguments.wait is None else None
    engine: Any = bench.engine if bench else WaitingEngine(arguments.wait)
    shards = [f"shard-{number}" for number in range(arguments.shards)]
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            store=folder, roots_per_shard=0, root_tokens_min=64, root_tokens_max=4095, sequence_tokens=131_072
        )
        model, tables = ModelChoice.long(settings), ShardTables(folder)
        write_documents(tables, shards, arguments.documents)
        step = ShardStep(settings=settings, tables=tables, show=quiet)

        def work(shard: str) -> Made:
            made = map_entropy(step, shard, engine, model)
            stamp = Stamp(asset="entropy_maps", partition=shard, recipe="benchmark", facts=made.facts)
            tables.write(conform(made.frame, "entropy_maps"), stamp)
            return made

        if bench:
            compile_layers(bench, bench.on_gpu)
        work(shards[0])  # compiles
        texts = tables.read("documents", shards[0], ["text"])["text"].to_list()
        started = time.perf_counter()
        n_tokens = sum(map(len, step.tokenizer.encode_batch(texts)))
        print(f"tokenizing alone: {n_tokens / (time.perf_counter() - started):,.0f} tokens/s\n")
        print("| tokens/s | engine's seconds | seconds | device busy |\n|---|---|---|---|")
        print(measured(lambda: map(work, shards), engine, profiled=bool(bench and bench.on_gpu)))


def measured(run: Callable[[], Iterator[Made]], engine: Any, *, profiled: bool) -> str:
    """Return a row of the table, from one timed run and, if `profiled`, another under the profiler."""
    before = engine.seconds
    started = time.perf_counter()
    tokens = sum(int(made.facts["tokens"]) for made in run())
    seconds = time.perf_counter() - started
    spent = engine.seconds - before
    busy = f"{100 * busy_share(lambda: list(run())):.0f} %" if profiled else "–"
    return f"| {tokens / seconds:,.0f} | {spent:.1f} | {seconds:.1f} | {busy} |"


if __name__ == "__main__":
    main()
