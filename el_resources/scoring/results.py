"""Scores on their way from the device to the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Scores of one sequence at its wanted positions, in their order."""

    entropy_nats: NDArray[np.float32]
    nll_nats: NDArray[np.float32]


class OnItsWay:
    """A result that a GPU is still working on; on a CPU it is there at once."""

    def __init__(self, values: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def array(self) -> NDArray[np.float32]:
        """The result, once it is there."""
        if self._done is not None:
            self._done.synchronize()
        found: NDArray[np.float32] = self._values.numpy()
        return found


def split_scores(found_2R: NDArray[np.float32], counts: Sequence[int]) -> list[TokenScores]:
    """Entropies and NLLs of a batch as scores of its sequences, each of which has so many."""
    ends = np.cumsum(counts)[:-1]
    entropies, nlls = (np.split(row_R, ends) for row_R in found_2R)
    return [TokenScores(entropy_nats=entropy, nll_nats=nll) for entropy, nll in zip(entropies, nlls, strict=True)]
