"""Prompts of samples: `[BOS] context sep instruction sep response`, joined from the token ids of the parts.

The parts are tokenized separately and concatenated as ids, so the positions of the response are known exactly. A
context that does not fit the window is cut by a named policy, and the dropped tokens are counted; instruction and
response are never cut. A sample without context starts with its instruction. Later exchanges that are scored with the
first (`scored_exchange` all) follow as `sep instruction sep response`, and are not cut either.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parts:
    """Token ids of a sample's parts.

    Attributes:
        later: instruction and response of every later exchange that is scored with the first.
    """

    context: np.ndarray
    instruction: np.ndarray
    response: np.ndarray
    later: Sequence[tuple[np.ndarray, np.ndarray]] = ()


@dataclass(frozen=True)
class Prompt:
    """A sample as one sequence of token ids, without BOS.

    Attributes:
        context: its positions [start, end) in the sequence.
        responses: positions [start, end) of every response, in order; the last one ends the sequence.
        n_dropped: context tokens that were cut away.
    """

    token_ids: np.ndarray
    context: tuple[int, int]
    responses: tuple[tuple[int, int], ...]
    n_dropped: int

    def response_positions(self) -> np.ndarray:
        return np.concatenate([np.arange(*response) for response in self.responses])

    def with_context(self, start: int, end: int) -> "Prompt":
        """Return the prompt with the tokens [start, end) of its context as the whole context."""
        by = self.context[1] - (end - start)
        return Prompt(
            token_ids=np.concatenate([self.token_ids[start:end], self.token_ids[self.context[1] :]]),
            context=(0, end - start),
            responses=tuple((first - by, last - by) for first, last in self.responses),
            n_dropped=0,
        )


def build_prompt(parts: Parts, separator: np.ndarray, *, window: int, cut: str) -> Prompt:
    """Return the prompt of a sample within `window` tokens, BOS included.

    Args:
        cut: the part that is cut from a context that is too long: `head` keeps the tokens next to the instruction,
            `middle` keeps both ends, as LongBench does.

    If instructions and responses alone fill the window, the whole context is dropped, and the sequence may exceed the
    window; the caller decides whether that is allowed.
    """
    rest, spans = exchanges_of(parts, separator)
    room = max(0, window - 1 - len(rest) - len(separator))
    context = cut_context(parts.context, room, cut)
    head = np.concatenate([context, separator]) if len(context) else context
    return Prompt(
        token_ids=np.concatenate([head, rest]),
        context=(0, len(context)),
        responses=tuple((start + len(head), end + len(head)) for start, end in spans),
        n_dropped=len(parts.context) - len(context),
    )


def exchanges_of(parts: Parts, separator: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return the tokens after the context, and the span of each response in them."""
    pieces: list[np.ndarray] = []
    spans = []
    for instruction, response in [(parts.instruction, parts.response), *parts.later]:
        pieces += [separator, instruction, separator, response] if pieces else [instruction, separator, response]
        end = sum(map(len, pieces))
        spans.append((end - len(response), end))
    return np.concatenate(pieces), spans


def cut_context(context: np.ndarray, room: int, cut: str) -> np.ndarray:
    """Return at most `room` tokens of the context, cut by the named policy."""
    if len(context) <= room:
        return context
    if cut == "head":
        return context[len(context) - room :]
    if cut == "middle":
        first = (room + 1) // 2
        return np.concatenate([context[:first], context[len(context) - (room - first) :]])
    raise ValueError(f"context_cut {cut!r} is unknown; use head or middle")


def segments_of(context: tuple[int, int], length: int) -> list[tuple[int, int]]:
    """Return the segments of the context, [start, end), of `length` tokens each; the last one may be shorter."""
    start, end = context
    return [(left, min(left + length, end)) for left in range(start, end, length)]
