"""Cases of the scoring benchmark: entropy maps, single long documents, verification, contextual awareness.

Each case yields rows as they are measured; scoring_tables.py says what their keys mean.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.scoring_bench import SEED, Bench, Timing, Way, busy_share, compile_layers, take_turns

Ids = NDArray[np.int64]
Row = dict[str, Any]
ANCHORS, CANDIDATES, CHUNKS_PER_ROOT = 12, 32, 200
SEPARATOR_TOKENS = 2
LONGEST_ROOT = 2047
# Share of units whose chunk is read before another root too, as counted in the demo.
SHARED_UNITS = 0.12
LONG_DOCUMENTS = (32_768, 65_536)
CAM_REST, CAM_RESPONSE, CAM_SEGMENT = 128, 512, 128


def longest_input(bench: Bench, what: str) -> int:
    """Return the number of tokens of the longest sequence that a case reads, BOS included."""
    return {
        "maps": 1 + bench.document_tokens[2],
        "long": 1 + max(LONG_DOCUMENTS),
        "verify": 1 + bench.chunk_tokens + SEPARATOR_TOKENS + min(LONGEST_ROOT, bench.document_tokens[2]),
        "cam": 1 + _cam_context(bench) + CAM_REST + CAM_RESPONSE,
    }[what]


# --- entropy maps


def documents(bench: Bench, count: int, at_most: int | None = None) -> list[Ids]:
    """Return documents of random tokens with realistic lengths: log-normal, between the shortest and the longest."""
    random = np.random.default_rng(SEED)
    shortest, median, longest = bench.document_tokens
    lengths = np.exp(random.normal(np.log(median), 0.8, count))
    lengths = np.clip(lengths, shortest, min(longest, at_most or longest)).astype(int)
    return [random.integers(0, bench.engine.vocab_size, length) for length in lengths]


def maps(bench: Bench) -> Iterator[Row]:
    """Score every position of many documents; on a GPU the plain ways read a sixteenth of them."""
    whole = documents(bench, max(8, int(1024 * bench.scale)))
    few = whole[: max(8, len(whole) // 16)]
    plain = few if bench.on_gpu else whole
    fours = [plain[start : start + 4] for start in range(0, len(plain), 4)]
    rows = sum(map(len, plain))
    ways = [
        Way(
            name="plain, one at a time",
            work=lambda: read_plainly(bench, [[ids] for ids in plain]),
            warm_up=lambda: read_plainly(bench, [[ids] for ids in few]),
            rows=rows,
        ),
        Way(
            name="plain, padded fours",
            work=lambda: read_plainly(bench, fours),
            warm_up=lambda: read_plainly(bench, fours[: -(-len(few) // 4)]),
            rows=rows,
        ),
    ]
    ways += [
        Way(
            name="engine, layers compiled" if compiled else "engine",
            work=lambda: read_by_engine(bench, whole),
            warm_up=lambda: read_by_engine(bench, few),
            rows=sum(map(len, whole)),
            compiled=compiled,
        )
        for compiled in ((False, True) if bench.on_gpu else (False,))
    ]
    for way, timing in take_turns(bench, ways):
        row = _speed(bench, way, timing)
        if bench.on_gpu and way.name.startswith("engine"):
            row["busy_share"] = busy_share(lambda: bench.engine.score(whole[: len(whole) // 4]))
        yield row


def _speed(bench: Bench, way: Way, timing: Timing, attention_pairs: float = 0.0) -> Row:
    """Return a row: tokens per second, share of the matmul rate, memory."""
    return {
        "way": way.name,
        "tokens_per_second": timing.inputs / timing.seconds,
        "matmul_share": bench.share(timing.inputs, way.rows, timing.seconds, attention_pairs),
        "gib_above_weights": timing.gib_above_weights,
    }


def read_by_engine(
    bench: Bench,
    sequences: Sequence[Ids],
    positions: Sequence[Ids] | None = None,
    n_common: Sequence[int] | None = None,
) -> int:
    """Score the sequences with the engine and return the number of inputs that were read."""
    before = bench.engine.tokens
    bench.engine.score(sequences, positions, n_common=n_common)
    return bench.engine.tokens - before


def read_plainly(bench: Bench, batches: Sequence[Sequence[Ids]]) -> int:
    """Score batch by batch with plain transformers and return the number of tokens, without padding."""
    for batch in batches:
        naive_scores(bench.model, batch)
    return sum(len(ids) for batch in batches for ids in batch)


@torch.inference_mode()
def naive_scores(model: Any, sequences: Sequence[Ids]) -> list[tuple[Any, Any]]:
    """Return (entropy, NLL) of each sequence from all logits of the padded batch, as most scripts do it."""
    inputs = torch.zeros(len(sequences), max(map(len, sequences)) + 1, dtype=torch.long)
    mask = torch.zeros_like(inputs)
    for row, ids in enumerate(sequences):
        inputs[row, 1 : len(ids) + 1] = torch.from_numpy(ids)
        mask[row, : len(ids) + 1] = 1
    inputs = inputs.to(model.device)
    masks = {} if len(sequences) == 1 else {"attention_mask": mask.to(model.device)}
    logits = model(input_ids=inputs, use_cache=False, **masks).logits
    found = []
    for row, ids in enumerate(sequences):
        log_p = torch.log_softmax(logits[row, : len(ids)].float(), dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        nll = -log_p.gather(-1, inputs[row, 1 : len(ids) + 1, None])[:, 0]
        found.append((entropy.cpu(), nll.cpu()))
    return found


def long(bench: Bench) -> Iterator[Row]:
    """Score every position of single long documents."""
    random = np.random.default_rng(SEED)
    for length in LONG_DOCUMENTS:
        ids = random.integers(0, bench.engine.vocab_size, length)
        work = partial(read_by_engine, bench, [ids])
        way = Way(name=f"{length:,} tokens", work=work, warm_up=work, rows=length, compiled=True)
        for _, timing in take_turns(bench, [way]):
            yield _speed(bench, way, timing, attention_pairs=length * (length + 1) / 2)


# --- verification


@dataclass(frozen=True)
class Unit:
    """A chunk in front of a root, and the anchors at which it is to be scored."""

    chunk: Ids
    root: Ids
    anchors: Ids

    def sequence(self) -> Ids:
        return np.concatenate([self.chunk, np.zeros(SEPARATOR_TOKENS, np.int64), self.root])

    @property
    def n_common(self) -> int:
        return len(self.chunk) + SEPARATOR_TOKENS


def units(bench: Bench) -> list[Unit]:
    """Return the units that verification has to score for the roots; no chunk is read before two roots."""
    random = np.random.default_rng(SEED)
    found = []
    for root in documents(bench, bench.roots, LONGEST_ROOT):
        anchors = np.sort(random.choice(np.arange(8, len(root)), ANCHORS, replace=False))
        wanted = np.stack([random.choice(CHUNKS_PER_ROOT, CANDIDATES, replace=False) for _ in anchors])
        for chunk in np.unique(wanted):
            ids = random.integers(0, bench.engine.vocab_size, bench.chunk_tokens)
            found.append(Unit(ids, root, anchors[(wanted == chunk).any(axis=1)]))
    return found


def with_shared_chunks(own: Sequence[Unit], share: float = SHARED_UNITS) -> list[Unit]:
    """Return the same units, of which this share is paired: both units of a pair read one chunk before two roots."""
    random = np.random.default_rng(SEED)
    half = round(share * len(own) / 2)
    chosen = np.sort(random.choice(len(own), 2 * half, replace=False))
    found = list(own)
    for first, second in zip(chosen[:half], chosen[half:], strict=True):
        if own[first].root is not own[second].root:
            found[second] = replace(own[second], chunk=own[first].chunk)
    return found


def verify(bench: Bench) -> Iterator[Row]:
    """Measure pairs per second, against one forward of chunk and whole root for each pair."""
    own = units(bench)
    every = [unit for unit in own for _ in unit.anchors]
    random = np.random.default_rng(SEED)
    count = min(500, max(20, int(500 * bench.scale)))
    sample = [[every[index].sequence()] for index in random.choice(len(every), count, replace=False)]
    ways = [
        Way(
            name="plain, a pair at a time",
            work=lambda: read_plainly(bench, sample),
            warm_up=lambda: read_plainly(bench, sample[:1]),
            rows=sum(len(ids) for (ids,) in sample),
            pairs=len(sample),
        ),
        _verification("engine", bench, own, shared=False),
        _verification("… chunks shared as in the demo", bench, with_shared_chunks(own), shared=True),
    ]
    rates: list[float] = []  # the plain way's first
    for way, timing in take_turns(bench, ways):
        rates.append(way.pairs / timing.seconds)
        n_units = None if way is ways[0] else len(own)
        facts = {
            "units": n_units,
            "pairs": way.pairs,
            "pairs_per_second": rates[-1],
            "times_plain": rates[-1] / rates[0],
        }
        yield {**_speed(bench, way, timing), **facts}


def _verification(name: str, bench: Bench, chosen: Sequence[Unit], *, shared: bool) -> Way:
    """Return the engine's way to score units; if they share chunks, the engine is told where each chunk ends."""
    sequences = [unit.sequence() for unit in chosen]
    positions = [unit.n_common + unit.anchors for unit in chosen]
    n_common = [unit.n_common for unit in chosen] if shared else None
    pairs = sum(map(len, positions))
    return Way(
        name=name,
        work=lambda: read_by_engine(bench, sequences, positions, n_common),
        warm_up=lambda: read_by_engine(bench, sequences[:64], positions[:64], n_common and n_common[:64]),
        rows=pairs,
        pairs=pairs,
        compiled=True,
    )


# --- contextual awareness


def cam(bench: Bench) -> Iterator[Row]:
    """Measure a forward over a long context, the same forward with attention mass, and the segments read alone."""
    random = np.random.default_rng(SEED)
    context = _cam_context(bench)
    end = context + CAM_REST + CAM_RESPONSE
    ids = random.integers(0, bench.engine.vocab_size, end)
    segments = [(start, min(start + CAM_SEGMENT, context)) for start in range(0, context, CAM_SEGMENT)]
    response = (end - CAM_RESPONSE, end)
    compile_layers(bench, True)
    bench.engine.segment_attention([ids], [segments], [response])
    _, plain, plain_gib = bench.timed(lambda: bench.engine.score([ids], [np.arange(*response)]))
    yield _seconds(f"forward of {end:,} tokens, NLL of the response", plain, 1.0, plain_gib)
    _, watched, gib = bench.timed(lambda: bench.engine.segment_attention([ids], [segments], [response]))
    yield _seconds("… and attention mass", watched, watched / plain, gib)
    few = segments[:64]
    alone = [np.concatenate([ids[slice(*span)], ids[context:]]) for span in few]
    rows = [np.arange(len(one) - CAM_RESPONSE, len(one)) for one in alone]
    _, seconds, gib = bench.timed(lambda: bench.engine.score(alone, rows))
    total = seconds * len(segments) / len(few)
    yield _seconds(f"{len(segments)} segments alone, from {len(few)} of them", total, total / plain, gib)


def _cam_context(bench: Bench) -> int:
    """Return the number of tokens of the context."""
    return max(1024, int(65_536 * bench.scale) - 1024)


def _seconds(way: str, seconds: float, forwards: float, gib: float | None) -> Row:
    return {"way": way, "seconds": seconds, "forwards": forwards, "gib_above_weights": gib}


CASES = {"maps": maps, "verify": verify, "long": long, "cam": cam}
