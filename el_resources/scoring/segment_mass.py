"""Attention mass of a sequence's last rows on segments of it, without a matrix of inputs × inputs.

Shapes: N inputs (BOS first), H query heads, K key heads, E width of a head, r rows of a chunk, M inputs up to its end.

Alignment. Columns of attention are inputs, and rows predict. With BOS in front, token t is input t + 1, and the row
that predicts token t, and so explains it, is row t, which reads token t - 1 (see engine.py). For a response a … b-1:

    input               0    1    2  …   a        a+1 …  b-1       N = b inputs are read
    reads              BOS  x_0  x_1 …  x_{a-1}  x_a  …  x_{b-2}
    predicts           x_0  x_1  x_2 …  x_a      x_{a+1} … x_{b-1}
    is a wanted row                      *        *   …   *        the last b - a rows

A segment of tokens s … e-1 is columns s+1 … e.

Algorithm: the packed attention of every layer (attention.py) shows its queries and keys to a watcher. It computes
softmax(q·Kᵀ·scale) for the wanted rows only, in fp32, a bounded chunk of rows at a time, and averages it over heads and
rows. What is left is one number for each layer and input; a layer's mass on a segment is a sum of those, and its masses
on all segments and on the rest sum to 1.

Layers with a sliding window give exactly 0 to inputs beyond it, whatever the model would give. A layer reaches a
segment if its window, from the last wanted row, holds the segment's first input: then no wanted row is kept from any of
the segment's inputs. The mass of a segment is the mean over the layers that reach it; if none does, over those with the
widest window. So a mean over layers compares segments only as far as the same layers reach them, and `segment_layers`
says how many did. In a model whose layers all have one window, or none, it is the mean over all layers.

Guarantees: exact but for rounding, whatever the weights' dtype. Sliding windows are honoured.
Costs: 2 × rows × N × H × E operations a layer in addition to the forward; memory of a chunk's weights, twice.
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

# Attention weights alive at once: what suits a CPU's caches, and 256 MiB on a GPU.
CPU_WEIGHTS, CUDA_WEIGHTS = 2**20, 2**26

Span = tuple[int, int]
# A response in one piece, or in several.
Response = Span | Sequence[Span]


@dataclass(frozen=True, kw_only=True)
class SegmentScores:
    """Attention of a response on segments of its sequence, and its NLL.

    Attributes:
        segment_attention: mass on each segment, mean over heads, response rows and the layers that reach the segment;
            in the order of the request.
        rest_attention: mass on all inputs of no segment (BOS, instruction, response), mean over all layers. If every
            layer reaches every segment, everything sums to 1.
        nll_nats: of each response token, from the same pass.
        segment_layers: number of layers that each segment's mean is over.
        layer_windows: of each layer, the inputs that a row sees; None for all before it.
        layer_sum_error: how far the masses of one layer, on everything, are from 1 at worst.
    """

    segment_attention: NDArray[np.float32]
    rest_attention: float
    nll_nats: NDArray[np.float32]
    segment_layers: NDArray[np.int32]
    layer_windows: tuple[int | None, ...]
    layer_sum_error: float


@dataclass
class AttentionWatcher:
    """Collect the attention mass of some rows of one sequence on each input.

    Attributes:
        rows: the rows [start, end), of which the last is the sequence's last.
        max_weights: attention weights alive at once; a default for the device if None.
        layers_N: of each layer, the mean over heads and wanted rows.
        windows: of each layer, the inputs that a row sees, itself included; None for all.
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
            # Neighbouring query heads share a key head: H × r is K × (heads that share it × r).
            query_KqE = query_HNE[:, start:end].reshape(n_key_heads, -1, width)
            weights_HrM = products_in_fp32(query_KqE, key_KNE[:, :end]).mul_(scale).view(n_heads, -1, end)
            weights_HrM.masked_fill_(~visible(start, end, 0, end, window, weights_HrM.device), -torch.inf)
            mass_N[:end] += weights_HrM.softmax(dim=-1).sum(dim=(0, 1))
        n_rows = sum(last - first for first, last in self.rows)
        self.layers_N.append(mass_N / (n_heads * n_rows))
        self.windows.append(window)

    def masses(self) -> NDArray[np.float64]:
        """Return the mass of each layer on each input, layers × N; a layer's sum to 1."""
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
    """left · rightᵀ in fp32. Products of halves are exact in fp32, so that a GPU need not widen them first."""
    if left_KqE.is_cuda and left_KqE.dtype != torch.float32:
        return torch.bmm(left_KqE, right_KME.mT, out_dtype=torch.float32)
    return left_KqE.float() @ right_KME.float().mT


def segment_scores(watcher: AttentionWatcher, segments: Sequence[Span], nll_nats: NDArray[np.float32]) -> SegmentScores:
    """Return what a watcher saw, by segment; segments are positions of the sequence without BOS."""
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
    """The pieces of a response, in the order of the request."""
    pieces: Any = response if not response or isinstance(response[0], Sequence) else [response]
    return [(start, end) for start, end in pieces]


def check_spans(
    sequences: Sequence[Any], segments: Sequence[Sequence[Span]], responses: Sequence[Sequence[Span]]
) -> None:
    """Refuse responses that are empty, not there or out of order, and segments that overlap or reach into them."""
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
