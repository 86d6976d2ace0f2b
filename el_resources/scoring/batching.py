"""Which inputs a model has to read, and which of them it reads together.

Shapes: B sequences of a batch, N inputs of the longest of them, R wanted rows of a batch.

Algorithm: a sequence is cut behind its last wanted position. Longest first, sequences fill batches whose padded size
(sequences × longest) stays within a budget of tokens; a sequence that is longer than the budget goes alone.
Guarantees: every sequence that has inputs is in exactly one batch; the plan depends on the lengths alone and repeats.
Costs: neighbours in a sorted order differ little in length, so that padding is a few percent of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """The positions of one sequence whose predictions are wanted."""

    token_ids: IntArray
    positions: IntArray

    @property
    def n_inputs(self) -> int:
        """Inputs to run, BOS included: predicting token t needs BOS and the t tokens before it."""
        return int(self.positions.max()) + 1 if len(self.positions) else 0

    @property
    def whole_length(self) -> int:
        """Inputs of the whole sequence, BOS included, wherever it is cut."""
        return 1 + len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    """Requests as one rectangle of inputs, padded on the right, and the rows of it that are wanted."""

    inputs_BN: NDArray[np.int64]
    rows_R: NDArray[np.int64]  # of the rectangle, flattened
    targets_R: NDArray[np.int64]  # the token that each row is to predict


def input_lengths(sequences: Sequence[IntArray], positions: Sequence[IntArray] | None = None) -> NDArray[np.int64]:
    """Tokens that scoring puts through the model for each sequence, BOS included: the cost of a call, before it."""
    if positions is None:
        return np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    return np.array([int(wanted.max()) + 1 if len(wanted) else 0 for wanted in positions], dtype=np.int64)


def plan_batches(lengths: Sequence[int], max_batch_tokens: int, kinds: Sequence[int] | None = None) -> list[list[int]]:
    """Indices of the lengths above zero, longest first, in batches of at most `max_batch_tokens` with their padding.

    Where kinds are given, a batch holds one kind, and the highest comes first.
    """
    kind_of = [0] * len(lengths) if kinds is None else kinds
    wanted = [index for index, length in enumerate(lengths) if length]
    batches: list[list[int]] = []
    for index in sorted(wanted, key=lambda index: (-kind_of[index], -lengths[index])):
        first = batches[-1][0] if batches else index
        fits = batches and lengths[first] * (len(batches[-1]) + 1) <= max_batch_tokens
        if fits and kind_of[first] == kind_of[index]:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad_batch(requests: Sequence[ScoreRequest], bos_id: int) -> PaddedBatch:
    """Put BOS in front of each request's inputs and pad them on the right to the longest.

    What the padding holds is of no consequence: attention is causal, so no wanted row sees it.
    """
    n_inputs = max(request.n_inputs for request in requests)
    inputs_BN = np.full((len(requests), n_inputs), bos_id, dtype=np.int64)
    for row, request in enumerate(requests):
        inputs_BN[row, 1 : request.n_inputs] = request.token_ids[: request.n_inputs - 1]
    # inputs  BOS  x_0  x_1 … x_{t-1}
    # predict x_0  x_1  x_2 … x_t        so column t predicts token t
    rows_R = np.concatenate([row * n_inputs + request.positions for row, request in enumerate(requests)])
    targets_R = np.concatenate([request.token_ids[request.positions] for request in requests])
    return PaddedBatch(inputs_BN=inputs_BN, rows_R=rows_R.astype(np.int64), targets_R=targets_R.astype(np.int64))


def as_integers(values: IntArray) -> NDArray[np.int64]:
    """Ids or positions as an integer array; an empty list, which numpy takes for floats, included."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"token ids and positions are integers; got an array of {array.dtype}")
    return array.astype(np.int64)
