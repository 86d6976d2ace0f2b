"""Checks of requests to the engine, before the first forward."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from el_resources.scoring.batching import IntArray, ScoreRequest


def checked_requests(
    sequences: Sequence[IntArray],
    positions: Sequence[IntArray] | None = None,
    n_common: Sequence[int] | None = None,
    *,
    window: int,
    vocab_size: int,
) -> list[ScoreRequest]:
    """Return a request for each sequence; without positions it is for all of them.

    Raises:
        ValueError: a sequence is longer than the window, has ids outside the vocabulary, or lacks a wanted position.
    """
    if positions is None:
        positions = [np.arange(len(sequence)) for sequence in sequences]
    if len(positions) != len(sequences):
        raise ValueError(f"{len(positions)} lists of positions for {len(sequences)} sequences; give one for each")
    rows = zip(sequences, positions, n_common or [0] * len(sequences), strict=True)
    requests = [
        ScoreRequest(token_ids=_as_integers(ids), positions=_as_integers(wanted), n_common=common)
        for ids, wanted, common in rows
    ]
    for index, request in enumerate(requests):
        _check_positions(request, f"sequence {index}", window)
        check_ids(request.token_ids, f"sequence {index}", vocab_size)
    return requests


def check_ids(token_ids: IntArray, name: str, vocab_size: int) -> None:
    """Raise ValueError if a token id is outside the vocabulary."""
    outside = token_ids[(token_ids < 0) | (token_ids >= vocab_size)]
    if len(outside):
        raise ValueError(
            f"{name}: token id {outside[0]} is outside the model's vocabulary of {vocab_size}; "
            "tokenize the text with this model's tokenizer"
        )


def _check_positions(request: ScoreRequest, name: str, window: int) -> None:
    """Raise ValueError if the sequence exceeds the model's window, or lacks a wanted position."""
    n_tokens = len(request.token_ids)
    if request.whole_length > window:
        raise ValueError(
            f"{name} has {n_tokens} tokens, with BOS {request.whole_length}, and the model's window is {window}; "
            "cut the sequence or use a model with a longer window"
        )
    outside = request.positions[(request.positions < 0) | (request.positions >= n_tokens)]
    if len(outside):
        raise ValueError(
            f"position {outside[0]} of {name} does not exist: the sequence has {n_tokens} tokens; "
            f"give positions in [0, {n_tokens})"
        )


def _as_integers(values: IntArray) -> NDArray[np.int64]:
    """Return ids or positions as an integer array, also for an empty list, which numpy reads as floats."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"token ids and positions are integers; got an array of {array.dtype}")
    return array.astype(np.int64)
