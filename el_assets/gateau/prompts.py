"""How a sample is put before a model: `[BOS] context sep instruction sep response`, from the token ids of its parts.

The parts are tokenized by themselves and concatenated as ids, so the response's rows are known exactly and never found
by tokenizing a prefix again. A context that does not fit is cut, by a named policy, and what was dropped is counted;
instruction and response are never cut. A sample without context starts with its instruction.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parts:
    """Token ids of a sample's parts."""

    context: np.ndarray
    instruction: np.ndarray
    response: np.ndarray


@dataclass(frozen=True)
class Prompt:
    """A sample as one sequence of token ids, without BOS.

    Attributes:
        context, response: their positions [start, end) in the sequence.
        n_dropped: context tokens that were cut away.
    """

    token_ids: np.ndarray
    context: tuple[int, int]
    response: tuple[int, int]
    n_dropped: int

    def response_positions(self) -> np.ndarray:
        return np.arange(*self.response)


def build_prompt(parts: Parts, separator: np.ndarray, *, window: int, cut: str) -> Prompt:
    """The sample within `window` tokens, BOS included.

    Args:
        cut: where a context that is too long loses tokens: `head` keeps what stands nearest to the instruction,
        `middle` keeps
            both ends, as LongBench does.

    Where instruction and response alone fill the window the context is dropped as a whole, and the sequence may exceed
    the window; the caller decides whether that is allowed.
    """
    rest = np.concatenate([parts.instruction, separator, parts.response])
    room = max(0, window - 1 - len(rest) - len(separator))
    context = cut_context(parts.context, room, cut)
    head = np.concatenate([context, separator]) if len(context) else context
    token_ids = np.concatenate([head, rest])
    return Prompt(
        token_ids=token_ids,
        context=(0, len(context)),
        response=(len(token_ids) - len(parts.response), len(token_ids)),
        n_dropped=len(parts.context) - len(context),
    )


def cut_context(context: np.ndarray, room: int, cut: str) -> np.ndarray:
    """At most `room` tokens of the context, by the named policy."""
    if len(context) <= room:
        return context
    if cut == "head":
        return context[len(context) - room :]
    if cut == "middle":
        first = (room + 1) // 2
        return np.concatenate([context[:first], context[len(context) - (room - first) :]])
    raise ValueError(f"context_cut {cut!r} is unknown; use head or middle")


def segments_of(context: tuple[int, int], length: int) -> list[tuple[int, int]]:
    """The context in segments of `length` tokens, the last one possibly shorter: [start, end) positions."""
    start, end = context
    return [(left, min(left + length, end)) for left in range(start, end, length)]
