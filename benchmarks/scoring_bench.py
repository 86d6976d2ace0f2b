"""A model on its device, the rates that limit it, and the timing of ways to use it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import torch
import transformers

from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.scoring import ScoringEngine
from el_resources.scoring.last_layer import decoder_layers
from el_resources.scoring.readers import PackedReader

Result = TypeVar("Result")
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
# Products in the burst whose rate all shares refer to. A GPU slows down under longer load; the sustained rate shows it.
BURST_PRODUCTS = 10
SUSTAINED_SECONDS = {"cuda": 2.0, "cpu": 1.0}
# Rounds in which the ways take turns on a CPU, whose speed changes from minute to minute.
CPU_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model on its device, the rates that limit it, and the amount of work for it.

    Attributes:
        flops_per_second, sustained_flops_per_second: rates of matrix products, in a burst and over seconds.
        document_tokens: tokens of the shortest, the median and the longest document.
        chunk_tokens: length of each chunk in verification.
        scale: factor of all amounts of work.
        roots: number of roots in verification.
    """

    name: str
    model: Any
    engine: ScoringEngine
    flops_per_second: float
    sustained_flops_per_second: float
    bytes_of_weights: int
    document_tokens: tuple[int, int, int]
    chunk_tokens: int
    scale: float
    roots: int

    @property
    def on_gpu(self) -> bool:
        return self.engine.device.type == "cuda"

    def share(self, inputs: int, rows: int, seconds: float, attention_pairs: float = 0.0) -> float:
        """Return the operations of the matrix products as a share of those that the burst's rate allows in that time.

        Args:
            inputs: tokens that went through the layers.
            rows: positions that went through the head.
            attention_pairs: pairs of inputs that see each other; 0 leaves attention out of the count, as is usual.
        """
        config = self.model.config
        body = sum(p.numel() for name, p in self.model.named_parameters() if "layers" in name)
        head = config.hidden_size * config.vocab_size
        attention = 4 * config.hidden_size * config.num_hidden_layers * attention_pairs
        return float(2 * body * inputs + 2 * head * rows + attention) / seconds / self.flops_per_second

    def timed(self, work: Callable[[], Result]) -> tuple[Result, float, float | None]:
        """Return (the work's result, seconds, GiB above the weights at the peak); None for the GiB on a CPU."""
        if not self.on_gpu:
            started = time.perf_counter()
            result = work()
            return result, time.perf_counter() - started, None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        result = work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return result, seconds, (torch.cuda.max_memory_allocated() - self.bytes_of_weights) / 2**30


def open_bench(shape: str, device: str, *, scale: float, roots: int | None) -> Bench:
    """Return the demo's model, or a random one of the shape, with the rates of its device."""
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
    burst, sustained = matmul_rates(device)
    return Bench(
        name=shape,
        model=model.eval(),
        engine=ScoringEngine(model, bos_id=0, compiled=False),
        flops_per_second=burst,
        sustained_flops_per_second=sustained,
        bytes_of_weights=weights,
        document_tokens=(128, 300, 640) if shape == "reference" else (64, 800, 4095),
        chunk_tokens=128 if shape == "reference" else 512,
        scale=scale,
        roots=max(2, int(16 * scale)) if roots is None else roots,
    )


def compile_layers(bench: Bench, wanted: bool) -> None:
    """Compile the model's layers, or restore the uncompiled ones; on a CPU they are never compiled."""
    reader = bench.engine._reader
    assert isinstance(reader, PackedReader)
    if wanted and bench.on_gpu:
        reader.compile()
    else:
        reader.compiled = False
        for layer in decoder_layers(bench.model):
            layer._compiled_call_impl = None


def matmul_rates(device: str) -> tuple[float, float]:
    """Return the operations a second of large matrix products: in a short burst, and over seconds without a pause."""
    on_cpu = device == "cpu"
    size, dtype = (2048, torch.float32) if on_cpu else (8192, torch.bfloat16)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    wait = (lambda: None) if on_cpu else torch.cuda.synchronize

    def rate(products: int) -> float:
        wait()
        started = time.perf_counter()
        for _ in range(products):
            left @ right
        wait()
        return products * 2 * size**3 / (time.perf_counter() - started)

    rate(3)
    burst = rate(BURST_PRODUCTS)
    seconds = SUSTAINED_SECONDS["cpu" if on_cpu else "cuda"]
    return burst, rate(max(1, round(seconds * burst / (2 * size**3))))


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of several ways to do the same work.

    Attributes:
        work: does the work and returns the number of inputs that the model read.
        warm_up: the same work or a part of it, run once before.
        rows: positions that go through the head.
        pairs: pairs of verification that are scored.
        compiled: run with compiled layers, on a GPU.
    """

    name: str
    work: Callable[[], int]
    warm_up: Callable[[], Any]
    rows: int
    pairs: int = 0
    compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class Timing:
    seconds: float
    gib_above_weights: float | None
    inputs: int


def take_turns(bench: Bench, ways: Sequence[Way]) -> Iterator[tuple[Way, Timing]]:
    """Yield each way with its time as soon as it is known: one round on a GPU, the median of several on a CPU."""
    seconds: dict[str, list[float]] = defaultdict(list)
    rounds = 1 if bench.on_gpu else CPU_ROUNDS
    for number in range(rounds):
        for way in ways:
            compile_layers(bench, way.compiled)
            if number == 0:
                way.warm_up()
            inputs, took, gib = bench.timed(way.work)
            seconds[way.name].append(took)
            if number == rounds - 1:
                yield way, Timing(seconds=median(seconds[way.name]), gib_above_weights=gib, inputs=inputs)


def busy_share(work: Callable[[], Any]) -> float:
    """Return the share of the time in which the GPU runs a kernel or a copy."""
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
