"""Effect of the weights' dtype on entropies, anchors and keep decisions, with the reference model and real text.

    python benchmarks/numerics.py --store data            # a store with entropy_maps, context_scores, context_chunks

The truth is the naive way in fp32: plain transformers, one sequence at a time, all logits. It is compared with the same
in fp64 and in bf16, and with the engine in fp32 and, on a GPU, in bf16. Every way maps the roots, takes its own anchors
from its own entropies, and judges the same pairs by its own entropies before and after.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer

from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.scoring import ScoringEngine

Ids = NDArray[np.int64]
MODEL = REFERENCE_FOLDER / "long"
SEPARATOR = "\n\n"
ALPHA, SKIP, CAP = 1.5, 8, 8
EPSILONS = (0.2, 0.4)
# (sequences, positions) -> entropies (nats) at the positions of each sequence
Entropies = Callable[[Sequence[Ids], Sequence[Ids]], list[NDArray[np.float64]]]


@dataclass(frozen=True)
class Unit:
    """A chunk in front of a root, and the root's anchors that are judged."""

    root: int
    sequence: Ids
    start: int
    anchors: Ids


def read_store(store: Path, n_units: int) -> tuple[list[Ids], list[Unit]]:
    """Return the roots of all shards, and a seeded sample of at most `n_units` of their (root, chunk) units."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    separator = np.array(tokenizer.encode(SEPARATOR, add_special_tokens=False).ids)
    maps = _rows(store, "entropy_maps", ["doc_id", "token_ids"])
    texts: dict[str, str] = {}
    for row in _rows(store, "context_chunks", ["content_hash", "text"]):
        texts[row["content_hash"]] = row["text"]
    number = {row["doc_id"]: index for index, row in enumerate(maps)}
    roots = [np.array(row["token_ids"]) for row in maps]
    scores = _rows(store, "context_scores", ["doc_id", "chunk_hash", "anchor"])
    anchors: dict[tuple[str, str], list[int]] = {}
    for row in scores:
        anchors.setdefault((row["doc_id"], row["chunk_hash"]), []).append(row["anchor"])
    keys = [key for key in sorted(anchors) if key[0] in number]
    units = []
    for index in np.random.default_rng(0).permutation(len(keys))[:n_units]:
        doc_id, chunk_hash = keys[index]
        chunk = np.array(tokenizer.encode(texts[chunk_hash], add_special_tokens=False).ids)
        wanted = np.unique(anchors[doc_id, chunk_hash])
        sequence = np.concatenate([chunk, separator, roots[number[doc_id]][: wanted[-1] + 1]])
        units.append(Unit(number[doc_id], sequence, len(chunk) + len(separator), wanted))
    return roots, units


def _rows(store: Path, table: str, columns: list[str]) -> list[dict[str, Any]]:
    files = sorted((store / "tables" / table).glob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read(columns).to_pylist()]


def naive(dtype: torch.dtype, device: str) -> Entropies:
    """Return a function that scores with plain transformers, one sequence at a time."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype).to(device).eval()

    @torch.inference_mode()
    def entropies(sequences: Sequence[Ids], positions: Sequence[Ids]) -> list[NDArray[np.float64]]:
        found = []
        for ids, wanted in zip(sequences, positions, strict=True):
            inputs = torch.tensor([[0, *ids.tolist()]], device=device)
            logits = model(input_ids=inputs, use_cache=False).logits[0, torch.from_numpy(wanted)]
            log_p = torch.log_softmax(logits.to(torch.float64 if dtype == torch.float64 else torch.float32), dim=-1)
            found.append((-(log_p.exp() * log_p).sum(dim=-1)).double().cpu().numpy())
        return found

    return entropies


def engine(dtype: str, device: str, *, compiled: bool = False) -> Entropies:
    made = ScoringEngine.from_folder(MODEL, bos_id=0, dtype=dtype, device=device, compiled=compiled)

    def entropies(sequences: Sequence[Ids], positions: Sequence[Ids]) -> list[NDArray[np.float64]]:
        return [scores.entropy_nats.astype(np.float64) for scores in made.score(sequences, positions)]

    return entropies


@dataclass(frozen=True)
class Outcome:
    """Results of one way: entropies of the roots, their anchors, and the entropies (before, after) of every pair."""

    maps: list[NDArray[np.float64]]
    anchors: list[set[int]]
    pairs: NDArray[np.float64]


def outcome(entropies: Entropies, roots: Sequence[Ids], units: Sequence[Unit]) -> Outcome:
    maps = entropies(roots, [np.arange(len(root)) for root in roots])
    after = entropies([unit.sequence for unit in units], [unit.start + unit.anchors for unit in units])
    before = [maps[unit.root][unit.anchors] for unit in units]
    return Outcome(maps, [anchors_of(one) for one in maps], np.stack([np.concatenate(before), np.concatenate(after)]))


def anchors_of(entropy_N: NDArray[np.float64]) -> set[int]:
    """Return the positions of the highest entropies above mean + α std, as el_assets.entropylong.anchors does."""
    threshold = entropy_N.mean() + ALPHA * entropy_N.std()
    above = [index for index in np.argsort(-entropy_N, kind="stable") if entropy_N[index] > threshold and index >= SKIP]
    return set(above[:CAP])


def row(name: str, found: Outcome, truth: Outcome) -> str:
    errors = np.abs(np.concatenate(found.maps) - np.concatenate(truth.maps))
    kept = sum(len(one & other) for one, other in zip(found.anchors, truth.anchors, strict=True))
    total = sum(len(one) for one in truth.anchors)
    flips = []
    for epsilon in EPSILONS:
        decisions = [(1 - pairs[1] / np.maximum(pairs[0], 1e-9)) > epsilon for pairs in (found.pairs, truth.pairs)]
        flips.append(f"{100 * np.mean(decisions[0] != decisions[1]):.2f} % of {100 * decisions[1].mean():.1f} %")
    quantiles = " | ".join(f"{value:.1e}" for value in (np.median(errors), np.quantile(errors, 0.99), errors.max()))
    return f"| {name} | {quantiles} | {total - kept} of {total} | {' | '.join(flips)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--store", type=Path, required=True, help="store of the demo, such as data")
    parser.add_argument("--units", type=int, default=1200, help="(root, chunk) units that are judged (default: 1200)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    roots, units = read_store(arguments.store, arguments.units)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ways: dict[str, Callable[[], Entropies]] = {
        "plain, fp64": lambda: naive(torch.float64, device),
        "plain, bf16": lambda: naive(torch.bfloat16, device),
        "engine, fp32": lambda: engine("float32", device),
    }
    if device == "cuda":
        ways["engine, bf16"] = lambda: engine("bfloat16", device)
        ways["engine, bf16, compiled"] = lambda: engine("bfloat16", device, compiled=True)
    truth = outcome(naive(torch.float32, device), roots, units)
    print(
        f"{len(roots)} roots, {len(np.concatenate(truth.maps)):,} positions, {len(units):,} units, "
        f"{truth.pairs.shape[1]:,} pairs, against plain fp32 on {device}.\n"
    )
    columns = ["way", "median error, nats", "99 %", "largest", "anchors lost"]
    columns += [f"decisions that flip at ε {epsilon}, of those kept" for epsilon in EPSILONS]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for name, way in ways.items():
        print(row(name, outcome(way(), roots, units), truth), flush=True)


if __name__ == "__main__":
    main()
