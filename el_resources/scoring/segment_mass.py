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
softmax(q·Kᵀ·scale) for the wanted rows only, in fp32, a bounded chunk of rows at a time, and averages it over heads,
rows and layers. What is left is one number for each input; the mass of a segment is a sum of those.
Guarantees: exact but for rounding, whatever the weights' dtype. Sliding windows are honoured.
Costs: 2 × rows × N × H × E operations a layer beside the forward; memory of a chunk's weights, twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from el_resources.scoring.attention import visible

# Attention weights alive at once: what suits a CPU's caches, and 256 MiB on a GPU.
CPU_WEIGHTS, CUDA_WEIGHTS = 2**20, 2**26

Span = tuple[int, int]
# A response in one piece, or in several.
Response = Span | Sequence[Span]


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


@dataclass
class AttentionWatcher:
    """Collects how much of the attention of some rows of one sequence lies on each input.

    Attributes:
        rows: the rows [start, end), of which the last is the sequence's last.
        max_weights: attention weights alive at once; a default for the device if None.
        layers_N: of each layer, the mean over heads and wanted rows.
    """

    rows: Sequence[Span]
    max_weights: int | None = None
    layers_N: list[Tensor] = field(default_factory=list)

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

    def mass(self) -> NDArray[np.float64]:
        """The mass on each input; sums to 1."""
        mass_N: NDArray[np.float64] = torch.stack(self.layers_N).mean(dim=0).cpu().numpy()
        return mass_N

    def _weights_alive(self, query_HNE: Tensor) -> int:
        return self.max_weights or (CUDA_WEIGHTS if query_HNE.is_cuda else CPU_WEIGHTS)


def products_in_fp32(left_KqE: Tensor, right_KME: Tensor) -> Tensor:
    """left · rightᵀ in fp32. Products of halves are exact in fp32, so that a GPU need not widen them first."""
    if left_KqE.is_cuda and left_KqE.dtype != torch.float32:
        return torch.bmm(left_KqE, right_KME.mT, out_dtype=torch.float32)
    return left_KqE.float() @ right_KME.float().mT


def segment_masses(mass_N: NDArray[np.float64], segments: Sequence[Span]) -> tuple[NDArray[np.float32], float]:
    """The mass on each segment, and on what lies on none; segments are positions of the sequence behind BOS."""
    masses_S = np.array([mass_N[start + 1 : end + 1].sum() for start, end in segments], dtype=np.float64)
    free_N = np.ones(len(mass_N), dtype=bool)
    for start, end in segments:
        free_N[start + 1 : end + 1] = False
    return masses_S.astype(np.float32), float(mass_N[free_N].sum())


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
