"""Attention mass of a sequence's last rows on segments of it, without a matrix of inputs × inputs.

Shapes: N inputs (BOS first), H query heads, K key heads, E width of a head, r rows of a chunk, M inputs up to its end,
S segments.

Alignment. Columns of attention are inputs, and rows predict. With BOS in front, token t is input t + 1, and the row
that predicts token t, and so explains it, is row t, which reads token t - 1 (see engine.py). For a response a … b-1:

    input               0    1    2  …   a        a+1 …  b-1       N = b inputs are read
    reads              BOS  x_0  x_1 …  x_{a-1}  x_a  …  x_{b-2}
    predicts           x_0  x_1  x_2 …  x_a      x_{a+1} … x_{b-1}
    is a wanted row                      *        *   …   *        the last b - a rows

A segment of tokens s … e-1 is columns s+1 … e.

Algorithm: while `watch_attention` is open, the model's layers call `_watched_sdpa`, which shows their queries, keys and
mask to a watcher and returns what SDPA returns. The watcher computes softmax(q·Kᵀ·scale) for the wanted rows only, in
fp32, a bounded chunk of rows at a time, and averages it over heads, rows and layers. What is left is one number for
each input; the mass of a segment is a sum of those.
Guarantees: exact but for rounding, whatever the weights' dtype. Sliding-window and chunked layers keep their masks. A
model whose attention does what SDPA does not (capped scores, sinks, biases), or some of whose layers are not watched,
is refused. The model, and every other one, is left as it was found, after an error too; two threads must not share one.
Costs: 2 × rows × N × H × E operations a layer beside the forward; memory of a chunk's weights, twice, and of a layer's
keys in fp32. A layer with a sliding window shorter than N has a boolean mask of N × N, as in any SDPA forward.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

# Attention weights alive at once: what suits a CPU's caches, and 256 MiB on a GPU.
CPU_WEIGHTS, CUDA_WEIGHTS = 2**20, 2**26

# In transformers' registries for the life of the process; no model refers to it but while a watch is open.
_NAME = "watched_sdpa"

# What some models ask of their attention. SDPA does not do it, and transformers' wrapper may not say so.
_BEYOND_SDPA = {"softcap": "capped scores", "s_aux": "attention sinks", "position_bias": "position biases"}

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SegmentScores:
    """Where the prediction of a response looks, and how well it predicts.

    Attributes:
        segment_attention: mass on each segment, mean over layers, heads and response rows; in the order of the request.
        rest_attention: the same for all that lies on no segment (BOS, instruction, response). Everything sums to 1.
        nll_nats: of each response token, from the same pass.
    """

    segment_attention: NDArray[np.float32]
    rest_attention: float
    nll_nats: NDArray[np.float32]


@dataclass(kw_only=True)
class AttentionWatcher:
    """Collects how much of the attention of one sequence's last `n_rows` rows lies on each input."""

    n_rows: int
    max_weights: int
    layers_N: list[Tensor] = field(default_factory=list)

    def add_layer(self, query_1HNE: Tensor, key_1KNE: Tensor, mask: Tensor | None, scaling: float | None) -> None:
        """Keep one layer's mean over heads and wanted rows."""
        (n_sequences, n_heads, n_inputs, width), n_key_heads = query_1HNE.shape, key_1KNE.shape[1]
        assert n_sequences == 1 and n_inputs == key_1KNE.shape[2] >= self.n_rows, "one sequence, without a cache"
        if mask is not None and mask.dtype != torch.bool:
            raise ValueError("attention with biases cannot be watched; use a model with rotary or learned positions")
        key_KNE = key_1KNE[0].float()
        mass_N = torch.zeros(n_inputs, dtype=torch.float64, device=query_1HNE.device)
        chunk = max(1, self.max_weights // (n_heads * n_inputs))
        for start in range(n_inputs - self.n_rows, n_inputs, chunk):
            end = min(start + chunk, n_inputs)  # inputs behind it are seen by no row of the chunk
            query_HrE = query_1HNE[0, :, start:end].float() * (width**-0.5 if scaling is None else scaling)
            # Neighbouring query heads share a key head: H × r is K × (heads that share it × r).
            weights_HrM = (query_HrE.reshape(n_key_heads, -1, width) @ key_KNE[:, :end].mT).view(n_heads, -1, end)
            weights_HrM.masked_fill_(~_visible(mask, start, end, weights_HrM.device), -torch.inf)
            mass_N[:end] += weights_HrM.softmax(dim=-1).sum(dim=(0, 1))
        self.layers_N.append(mass_N / (n_heads * self.n_rows))

    def mass(self) -> NDArray[np.float64]:
        """The mass on each input; sums to 1."""
        mass_N: NDArray[np.float64] = torch.stack(self.layers_N).mean(dim=0).cpu().numpy()
        return mass_N


_watcher: ContextVar[AttentionWatcher | None] = ContextVar("_watcher", default=None)


@contextmanager
def watch_attention(model: Any, n_rows: int, max_weights: int | None = None) -> Iterator[AttentionWatcher]:
    """Watch one forward of one sequence, without a cache, through a model or its body.

    Args:
        model: a transformers model. Watches may nest, also of the same model; a forward belongs to the innermost.
        n_rows: how many of the last rows are wanted.
        max_weights: attention weights alive at once; a default for the device if None.

    Raises:
        ValueError: the model's attention cannot be watched as a whole.
    """
    config = model.config.get_text_config()
    watcher = AttentionWatcher(
        n_rows=n_rows, max_weights=max_weights or (CPU_WEIGHTS if model.device.type == "cpu" else CUDA_WEIGHTS)
    )
    before = config._attn_implementation
    token = _watcher.set(watcher)
    config._attn_implementation = _NAME
    try:
        yield watcher
    finally:
        config._attn_implementation = before
        _watcher.reset(token)
    if len(watcher.layers_N) != config.num_hidden_layers:
        raise ValueError(
            f"{len(watcher.layers_N)} of the {config.num_hidden_layers} layers of {type(model).__name__} attend "
            "through transformers' attention interface; segment attention needs a model in which all do"
        )


def segment_masses(mass_N: NDArray[np.float64], segments: Sequence[Span]) -> tuple[NDArray[np.float32], float]:
    """The mass on each segment, and on what lies on none; segments are positions of the sequence behind BOS."""
    masses_S = np.array([mass_N[start + 1 : end + 1].sum() for start, end in segments], dtype=np.float64)
    free_N = np.ones(len(mass_N), dtype=bool)
    for start, end in segments:
        free_N[start + 1 : end + 1] = False
    return masses_S.astype(np.float32), float(mass_N[free_N].sum())


def check_spans(sequences: Sequence[Any], segments: Sequence[Sequence[Span]], responses: Sequence[Span]) -> None:
    """Refuse responses that are empty or not there, and segments that overlap or reach into the response."""
    if not len(sequences) == len(segments) == len(responses):
        raise ValueError(
            f"{len(segments)} lists of segments and {len(responses)} responses for {len(sequences)} sequences; "
            "give one of each for each"
        )
    for index, sequence in enumerate(sequences):
        _check_span(responses[index], len(sequence), f"the response of sequence {index}")
        for span in segments[index]:
            _check_span(span, responses[index][0], f"a segment before the response of sequence {index}")
        for one, other in pairwise(sorted(segments[index])):
            if one[1] > other[0]:
                raise ValueError(
                    f"the segments {[*one]} and {[*other]} of sequence {index} overlap; give disjoint ones"
                )


def _check_span(span: Span, limit: int, name: str) -> None:
    start, end = span
    if not 0 <= start < end <= limit:
        raise ValueError(f"{name} is empty or out of range: [{start}, {end}); give 0 <= start < end <= {limit}")


def _watched_sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What transformers' SDPA gives, shown to the watcher. Shapes as there: 1 × heads × N × E."""
    for option, what in _BEYOND_SDPA.items():
        if options.get(option) is not None:
            raise ValueError(f"attention with {what} cannot be watched; segment attention needs a model without")
    watcher = _watcher.get()
    if watcher is not None:
        watcher.add_layer(query, key, attention_mask, options.get("scaling"))
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output


def _visible(mask: Tensor | None, start: int, end: int, device: torch.device) -> Tensor:
    """Which of the inputs before `end` the rows from `start` on may see; without a mask, those up to themselves."""
    if mask is not None:
        return mask[0, :, start:end, :end]
    return torch.arange(end, device=device) <= torch.arange(start, end, device=device)[:, None]


AttentionInterface.register(_NAME, _watched_sdpa)
AttentionMaskInterface.register(_NAME, sdpa_mask)
