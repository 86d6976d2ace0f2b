"""Scores of sequences, and their transfer from the device to the caller."""

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
    """Result that a GPU may still be computing; on a CPU it is ready at once."""

    def __init__(self, values: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def array(self) -> NDArray[np.float32]:
        """Wait for the result and return it."""
        if self._done is not None:
            self._done.synchronize()
        found: NDArray[np.float32] = self._values.numpy()
        return found


def split_scores(found_2R: NDArray[np.float32], counts: Sequence[int]) -> list[TokenScores]:
    """Split the entropies and NLLs of a batch into the scores of its sequences; `counts` are their numbers."""
    ends = np.cumsum(counts)[:-1]
    entropies, nlls = (np.split(row_R, ends) for row_R in found_2R)
    return [TokenScores(entropy_nats=entropy, nll_nats=nll) for entropy, nll in zip(entropies, nlls, strict=True)]
