"""Attention mass of a sequence's last rows on its segments, without an N × N matrix.

Shapes: N inputs (BOS first), H query heads, K key heads, E width of a head, r rows of a chunk, M inputs up to its end.

Alignment. Columns of attention are inputs, and rows predict. With BOS in front, token t is input t + 1. Token t is
predicted by row t, which reads token t - 1 (see engine.py). For a response a … b-1:

    input               0    1    2  …   a        a+1 …  b-1       N = b inputs are read
    reads              BOS  x_0  x_1 …  x_{a-1}  x_a  …  x_{b-2}
    predicts           x_0  x_1  x_2 …  x_a      x_{a+1} … x_{b-1}
    is a wanted row                      *        *   …   *        the last b - a rows

A segment of tokens s … e-1 is columns s+1 … e.

Algorithm: the packed attention of every layer (attention.py) passes its queries and keys to a watcher. The watcher
computes softmax(q·Kᵀ·scale) in fp32 for the wanted rows, in bounded chunks of rows, and averages it over heads and
rows. The result is one number for each layer and input. A layer's mass on a segment is the sum over its inputs, and
its masses on all segments and on the rest sum to 1.

A layer with a sliding window gives exactly 0 to inputs beyond it. It reaches a segment if the window of the last wanted
row includes the segment's first input: then every wanted row sees all inputs of the segment. The mass of a segment is
the mean over the layers that reach it, or over the layers with the widest window if none does. So masses of two
segments are comparable if the same layers reach them; `segment_layers` gives the number of layers. If all layers have
the same window, or none, the mass is the mean over all layers.

Guarantees: exact up to rounding for every dtype of the weights and for sliding windows.
Costs: 2 × rows × N × H × E operations a layer in addition to the forward; memory for a chunk's weights, twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from el_resources.scoring.pieces import visible

# Attention weights in memory at once: as many as fit a CPU's caches, and 256 MiB on a GPU.
CPU_WEIGHTS, CUDA_WEIGHTS = 2**20, 2**26

Span = tuple[int, int]
# A response in one piece, or in several.
Response = Span | Sequence[Span]


@dataclass(frozen=True, kw_only=True)
class SegmentScores:
    """Attention of a response on segments of its sequence, and its NLL.

    Attributes:
        segment_attention: mass on each segment, as mean over heads, response rows and the layers that reach the
            segment; in the order of the request.
        rest_attention: mass on all inputs outside segments (BOS, instruction, response), as mean over all layers. If
            every layer reaches every segment, this and the segments' masses sum to 1.
        nll_nats: NLL of each response token, from the same pass.
        segment_layers: number of layers in each segment's mean.
        layer_windows: number of inputs that a row sees, for each layer; None for all before it.
        layer_sum_error: largest difference from 1 of the sum of a layer's masses.
    """

    segment_attention: NDArray[np.float32]
    rest_attention: float
    nll_nats: NDArray[np.float32]
    segment_layers: NDArray[np.int32]
    layer_windows: tuple[int | None, ...]
    layer_sum_error: float


@dataclass
class AttentionWatcher:
    """Collector of the attention mass of some rows of one sequence on each input.

    Attributes:
        rows: spans [start, end) of the wanted rows; the last span ends at the sequence's end.
        max_weights: attention weights in memory at once; None for a default for the device.
        layers_N: mean over heads and wanted rows, for each layer.
        windows: number of inputs that a row sees, itself included, for each layer; None for all.
    """

    rows: Sequence[Span]
    max_weights: int | None = None
    layers_N: list[Tensor] = field(default_factory=list)
    windows: list[int | None] = field(default_factory=list)

    def add_layer(self, query_HNE: Tensor, key_KNE: Tensor, *, window: int | None, scale: float | None) -> None:
        """Keep one layer's mean over heads and wanted rows."""
        (n_heads, n_inputs, width), n_key_heads = query_HNE.shape, key_KNE.shape[0]
        assert n_inputs == key_KNE.shape[1] == self.rows[-1][1], "one sequence, whole"
        scale = width**-0.5 if scale is None else scale
        mass_N = torch.zeros(n_inputs, dtype=torch.float64, device=query_HNE.device)
        chunk = max(1, self._weights_alive(query_HNE) // (n_heads * n_inputs))
        chunks = [(start, min(start + chunk, last)) for first, last in self.rows for start in range(first, last, chunk)]
        for start, end in chunks:  # inputs after `end` are seen by no row of the chunk
            # Neighbouring query heads share a key head: H × r = K × (heads that share a key head × r).
            query_KqE = query_HNE[:, start:end].reshape(n_key_heads, -1, width)
            weights_HrM = products_in_fp32(query_KqE, key_KNE[:, :end]).mul_(scale).view(n_heads, -1, end)
            weights_HrM.masked_fill_(~visible(start, end, 0, end, window, weights_HrM.device), -torch.inf)
            mass_N[:end] += weights_HrM.softmax(dim=-1).sum(dim=(0, 1))
        n_rows = sum(last - first for first, last in self.rows)
        self.layers_N.append(mass_N / (n_heads * n_rows))
        self.windows.append(window)

    def masses(self) -> NDArray[np.float64]:
        """Return the mass of each layer on each input, layers × N; the masses of a layer sum to 1."""
        masses_LN: NDArray[np.float64] = torch.stack(self.layers_N).cpu().numpy()
        return masses_LN

    def reach(self, segment: Span) -> NDArray[np.bool_]:
        """Return which layers count for a segment: those that reach it, else those with the widest window."""
        n_inputs = self.rows[-1][1]
        widths_L = np.array([n_inputs if window is None else window for window in self.windows])
        first_input, last_row = segment[0] + 1, n_inputs - 1
        reaching_L = last_row - first_input < widths_L
        return reaching_L if reaching_L.any() else widths_L == widths_L.max()

    def _weights_alive(self, query_HNE: Tensor) -> int:
        return self.max_weights or (CUDA_WEIGHTS if query_HNE.is_cuda else CPU_WEIGHTS)


def products_in_fp32(left_KqE: Tensor, right_KME: Tensor) -> Tensor:
    """Return left · rightᵀ in fp32; products of halves are exact in fp32, so a GPU multiplies them directly."""
    if left_KqE.is_cuda and left_KqE.dtype != torch.float32:
        return torch.bmm(left_KqE, right_KME.mT, out_dtype=torch.float32)
    return left_KqE.float() @ right_KME.float().mT


def segment_scores(watcher: AttentionWatcher, segments: Sequence[Span], nll_nats: NDArray[np.float32]) -> SegmentScores:
    """Return a watcher's masses by segment; segments are positions of the sequence without BOS."""
    masses_LN = watcher.masses()
    free_N = np.ones(masses_LN.shape[1], dtype=bool)
    on_segments, n_layers = [], []
    for start, end in segments:
        layers_L = watcher.reach((start, end))
        on_segments.append(masses_LN[layers_L, start + 1 : end + 1].sum(axis=1).mean())
        n_layers.append(layers_L.sum())
        free_N[start + 1 : end + 1] = False
    return SegmentScores(
        segment_attention=np.array(on_segments, dtype=np.float32),
        rest_attention=float(masses_LN[:, free_N].sum(axis=1).mean()),
        nll_nats=nll_nats,
        segment_layers=np.array(n_layers, dtype=np.int32),
        layer_windows=tuple(watcher.windows),
        layer_sum_error=float(np.abs(masses_LN.sum(axis=1) - 1).max()),
    )


def pieces_of(response: Response) -> list[Span]:
    """Return the pieces of a response, in the order of the request."""
    pieces: Any = response if not response or isinstance(response[0], Sequence) else [response]
    return [(start, end) for start, end in pieces]


def check_spans(
    sequences: Sequence[Any], segments: Sequence[Sequence[Span]], responses: Sequence[Sequence[Span]]
) -> None:
    """Raise ValueError for responses that are empty, missing or out of order, and for overlapping segments."""
    if not len(sequences) == len(segments) == len(responses):
        raise ValueError(
            f"{len(segments)} lists of segments and {len(responses)} responses for {len(sequences)} sequences; "
            "give one of each for each"
        )
    for index, sequence in enumerate(sequences):
        if not responses[index]:
            raise ValueError(f"the response of sequence {index} has no piece; give [start, end) of at least one")
        for piece in responses[index]:
            _check_span(piece, len(sequence), f"the response of sequence {index}")
        for one, other in pairwise(responses[index]):
            if one[1] > other[0]:
                raise ValueError(
                    f"the pieces {[*one]} and {[*other]} of the response of sequence {index} overlap or are out of "
                    "order; give disjoint ones, first to last"
                )
        for span in segments[index]:
            _check_span(span, responses[index][0][0], f"a segment before the response of sequence {index}")
        for one, other in pairwise(sorted(segments[index])):
            if one[1] > other[0]:
                raise ValueError(
                    f"the segments {[*one]} and {[*other]} of sequence {index} overlap; give disjoint ones"
                )


def _check_span(span: Span, limit: int, name: str) -> None:
    start, end = span
    if not 0 <= start < end <= limit:
        raise ValueError(f"{name} is empty or out of range: [{start}, {end}); give 0 <= start < end <= {limit}")
