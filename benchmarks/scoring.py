"""The scoring engine beside plain transformers and beside the hardware's limit.

    python benchmarks/scoring.py --shape 8b --what maps long verify cam      # one GPU
    python benchmarks/scoring.py --shape reference --what maps verify        # a CPU, the demo's model

Shapes other than `reference` have random bf16 weights, which is enough for speed. The floor is counted: operations of
the matrix products (2 × parameters a token, the head for the rows that are asked for, attention for the pairs of inputs
that see each other) over the rate of an 8192³ bf16 product (2048³ fp32 on a CPU) measured in the same process. Naive
ways run in the same process too, on a sample where they are too slow for all.

Documents have 64 to 4,096 tokens, log-normal, median 800. Verification reads roots of that kind: 12 anchors, 32
candidates each, of 200 chunks of 512 tokens a root, so that a unique (root, chunk) serves 2.2 pairs.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from el_resources.model_files import REFERENCE_FOLDER
from el_resources.scoring import ScoringEngine, input_lengths
from el_resources.scoring.last_layer import decoder_layers
from el_resources.scoring.readers import PackedReader

Ids = NDArray[np.int64]
SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "tie_word_embeddings": False},
}
LLAMA_3 = {
    "vocab_size": 128_256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
}
SEED = 0
ANCHORS, CANDIDATES, CHUNKS_PER_ROOT = 12, 32, 200
SEPARATOR_TOKENS = 2


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model on its device, and what bounds it."""

    name: str
    model: Any
    engine: ScoringEngine
    flops_per_second: float
    bytes_of_weights: int
    chunk_tokens: int
    scale: float

    @property
    def on_gpu(self) -> bool:
        return self.engine.device.type == "cuda"

    def flops(self, lengths: Sequence[int], rows: int, *, attention: bool = False) -> float:
        """Operations of the matrix products; of attention's only where asked for, as is usual."""
        config = self.model.config
        body = sum(p.numel() for name, p in self.model.named_parameters() if "layers" in name)
        head = config.hidden_size * config.vocab_size
        pairs = sum(n * (n + 1) / 2 for n in lengths) if attention else 0
        return float(
            2 * body * sum(lengths) + 2 * head * rows + 4 * config.hidden_size * config.num_hidden_layers * pairs
        )

    def share(self, flops: float, seconds: float) -> str:
        return f"{100 * flops / seconds / self.flops_per_second:.0f} %"

    def timed(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Seconds, and GiB above the weights at the peak."""
        if not self.on_gpu:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started, float("nan")
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return seconds, (torch.cuda.max_memory_allocated() - self.bytes_of_weights) / 2**30


def open_bench(shape: str, device: str, *, compiled: bool | None, scale: float) -> Bench:
    torch.manual_seed(SEED)
    if shape == "reference":
        model = transformers.AutoModelForCausalLM.from_pretrained(
            REFERENCE_FOLDER / "long", dtype="float32" if device == "cpu" else "bfloat16"
        ).to(device)
    else:
        config = transformers.LlamaConfig(**SHAPES[shape], **LLAMA_3)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            model = transformers.AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(before)
    weights = sum(p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values())
    return Bench(
        name=shape,
        model=model.eval(),
        engine=ScoringEngine(model, bos_id=0, compiled=compiled),
        flops_per_second=matmul_rate(device),
        bytes_of_weights=weights,
        chunk_tokens=128 if shape == "reference" else 512,
        scale=scale,
    )


def compile_layers(bench: Bench, wanted: bool) -> None:
    """Run the model's layers compiled, or as they came; a CPU keeps them as they came."""
    reader = bench.engine._reader
    assert isinstance(reader, PackedReader)
    if wanted and bench.on_gpu:
        reader.compile()
    else:
        reader.compiled = False
        for layer in decoder_layers(bench.model):
            layer._compiled_call_impl = None


def matmul_rate(device: str) -> float:
    """Operations a second of a large square matrix product."""
    size, dtype = (2048, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    for _ in range(3):
        left @ right
    wait()
    started = time.perf_counter()
    for _ in range(10):
        left @ right
    wait()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


# --- entropy maps


def documents(bench: Bench, count: int, longest: int = 4096) -> list[Ids]:
    """Random tokens in documents of real lengths."""
    random = np.random.default_rng(SEED)
    lengths = np.clip(np.exp(random.normal(np.log(800), 0.8, count)), 64, longest - 1).astype(int)
    return [random.integers(0, bench.engine.vocab_size, length) for length in lengths]


def maps(bench: Bench) -> Iterator[str]:
    """Every position of many documents."""
    count = int(1024 * bench.scale)
    whole = documents(bench, count)
    few = whole[: max(8, count // 16)]
    compile_layers(bench, False)
    fours = [few[start : start + 4] for start in range(0, len(few), 4)]
    yield _map_row(bench, "plain, one at a time", few, lambda: [naive_scores(bench.model, [ids]) for ids in few])
    yield _map_row(bench, "plain, padded fours", few, lambda: [naive_scores(bench.model, four) for four in fours])
    for compiled in (False, True) if bench.on_gpu else (False,):
        compile_layers(bench, compiled)
        name = "engine" + (", layers compiled" if compiled else "")
        yield _map_row(bench, name, whole, lambda: bench.engine.score(whole), lambda: bench.engine.score(few))
        if bench.on_gpu:
            yield f"| … device busy | {100 * busy_share(lambda: bench.engine.score(whole[: count // 4])):.0f} % | | |"


def _map_row(
    bench: Bench, name: str, sequences: Sequence[Ids], work: Callable[[], Any], first: Callable[[], Any] | None = None
) -> str:
    (first or work)()
    seconds, gib = bench.timed(work)
    lengths = [len(ids) for ids in sequences]
    tokens = sum(lengths)
    return f"| {name} | {tokens / seconds:,.0f} | {bench.share(bench.flops(lengths, tokens), seconds)} | {gib:.1f} |"


@torch.inference_mode()
def naive_scores(model: Any, sequences: Sequence[Ids]) -> list[tuple[Any, Any]]:
    """All logits of padded sequences, softmax over them, entropy and NLL, as most scripts do it."""
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


def busy_share(work: Callable[[], Any]) -> float:
    """Share of the time in which the GPU runs a kernel or a copy."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    spans = sorted((e.time_range.start, e.time_range.end) for e in profile.events() if e.device_type.name == "CUDA")
    busy, reached = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / 1e6 / seconds


def long(bench: Bench) -> Iterator[str]:
    """Single long documents, every position."""
    random = np.random.default_rng(SEED)
    compile_layers(bench, True)
    for length in (32_768, 65_536):
        ids = random.integers(0, bench.engine.vocab_size, length)
        bench.engine.score([ids])
        seconds, gib = bench.timed(lambda ids=ids: bench.engine.score([ids]))
        flops = bench.flops([length], length, attention=True)
        yield f"| {length:,} tokens | {length / seconds:,.0f} | {bench.share(flops, seconds)} | {gib:.1f} |"


# --- verification


@dataclass(frozen=True)
class Unit:
    """A chunk in front of a root, and the anchors at which it is to be scored."""

    chunk: Ids
    root: Ids
    anchors: Ids

    def sequence(self) -> Ids:
        return np.concatenate([self.chunk, np.zeros(SEPARATOR_TOKENS, np.int64), self.root[: self.anchors.max() + 1]])

    @property
    def n_common(self) -> int:
        return len(self.chunk) + SEPARATOR_TOKENS


def units(bench: Bench, n_roots: int) -> list[Unit]:
    """What verification has to score for some roots."""
    random = np.random.default_rng(SEED)
    found = []
    for root in documents(bench, n_roots, longest=2048):
        anchors = np.sort(random.choice(np.arange(8, len(root)), ANCHORS, replace=False))
        wanted = np.stack([random.choice(CHUNKS_PER_ROOT, CANDIDATES, replace=False) for _ in anchors])
        for chunk in np.unique(wanted):
            ids = random.integers(0, bench.engine.vocab_size, bench.chunk_tokens)
            found.append(Unit(ids, root, anchors[(wanted == chunk).any(axis=1)]))
    return found


def verify(bench: Bench) -> Iterator[str]:
    """Pairs per second, against a forward of chunk and whole root for each pair."""
    chosen = units(bench, max(2, int(16 * bench.scale)))
    pairs = sum(len(unit.anchors) for unit in chosen)
    sequences = [unit.sequence() for unit in chosen]
    positions = [unit.n_common + unit.anchors for unit in chosen]
    every = [(unit, anchor) for unit in chosen for anchor in unit.anchors]
    random = np.random.default_rng(SEED)
    sample = [
        every[index] for index in random.choice(len(every), min(500, max(20, int(500 * bench.scale))), replace=False)
    ]
    naive = [np.concatenate([u.chunk, np.zeros(SEPARATOR_TOKENS, np.int64), u.root]) for u, _ in sample]
    compile_layers(bench, False)
    naive_scores(bench.model, naive[:1])
    seconds, gib = bench.timed(lambda: [naive_scores(bench.model, [ids]) for ids in naive])
    lengths = [len(ids) for ids in naive]
    share = bench.share(bench.flops(lengths, sum(lengths)), seconds)
    plain = len(sample) / seconds
    rate = f"{plain:,.1f} | {sum(lengths) / seconds:,.0f}"
    yield f"| plain, a pair at a time ({len(sample)}) | {rate} | {share} | {gib:.1f} |"
    compile_layers(bench, True)
    bench.engine.score(sequences[:64], positions[:64])
    seconds, gib = bench.timed(lambda: bench.engine.score(sequences, positions))
    lengths = input_lengths(sequences, positions).tolist()
    share = bench.share(bench.flops(lengths, pairs), seconds)
    ours = pairs / seconds
    rate = f"{ours:,.1f} | {sum(lengths) / seconds:,.0f}"
    yield f"| engine, {len(chosen):,} units, {pairs:,} pairs | {rate} | {share} | {gib:.1f} |"
    yield f"| ratio of pairs | {ours / plain:.1f} | | | |"


# --- contextual awareness


def cam(bench: Bench) -> Iterator[str]:
    """Attention mass of a long context beside the forward that it is watched in, and the segments alone."""
    random = np.random.default_rng(SEED)
    context, rest, response = int(65_536 * bench.scale) - 1024, 128, 512
    ids = random.integers(0, bench.engine.vocab_size, context + rest + response)
    end = context + rest + response
    segments = [(start, min(start + 128, context)) for start in range(0, context, 128)]
    bench.engine.segment_attention([ids], [segments], [(end - response, end)])
    plain, plain_gib = bench.timed(lambda: bench.engine.score([ids], [np.arange(end - response, end)]))
    watched, gib = bench.timed(lambda: bench.engine.segment_attention([ids], [segments], [(end - response, end)]))
    yield f"| forward, NLL of the response | {plain:.2f} | | {plain_gib:.1f} |"
    yield f"| … and attention mass | {watched:.2f} | {watched / plain:.2f} | {gib:.1f} |"
    few = segments[:64]
    alone = [np.concatenate([ids[slice(*span)], ids[context:]]) for span in few]
    rows = [np.arange(len(one) - response, len(one)) for one in alone]
    seconds, gib = bench.timed(lambda: bench.engine.score(alone, rows))
    total = seconds * len(segments) / len(few)
    yield f"| {len(segments)} segments alone, from {len(few)} of them | {total:.2f} | {total / plain:.2f} | {gib:.1f} |"


COLUMNS = {
    "maps": ["entropy maps", "tokens/s", "of the matmul rate", "GiB above the weights"],
    "long": ["one document", "tokens/s", "of the matmul rate, attention counted", "GiB above the weights"],
    "verify": ["verification", "pairs/s", "tokens/s", "of the matmul rate", "GiB above the weights"],
    "cam": ["awareness, 64K", "seconds", "× forward", "GiB above the weights"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", choices=[*SHAPES, "reference"], default="reference")
    parser.add_argument("--what", nargs="+", choices=COLUMNS, default=["maps", "verify"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="more or less of everything; for a dry run")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    bench = open_bench(arguments.shape, arguments.device, compiled=False, scale=arguments.scale)
    device = torch.cuda.get_device_name() if bench.on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"### {bench.name} on {device}\n\ntorch {torch.__version__}, transformers {transformers.__version__}, "
        f"{bench.engine.dtype}, {bench.flops_per_second / 1e12:.3g} TFLOP/s, batches of "
        f"{bench.engine.max_batch_tokens:,} inputs.\n"
    )
    for what in arguments.what:
        print(f"| {' | '.join(COLUMNS[what])} |\n{'|---' * len(COLUMNS[what])}|", flush=True)
        for row in {"maps": maps, "long": long, "verify": verify, "cam": cam}[what](bench):
            print(row, flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
