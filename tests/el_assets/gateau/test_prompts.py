"""Prompts are built from parts, cut by policy, and their spans are exact."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from el_assets.gateau.prompts import Parts, build_prompt, segments_of

SEPARATOR = np.array([99], dtype=np.int32)


def parts(context: int, instruction: int = 2, response: int = 3) -> Parts:
    """Context ids from 1000, instruction ids from 2000, response ids from 3000."""
    lengths = (context, instruction, response)
    return Parts(*(np.arange(n, dtype=np.int32) + 1000 * (i + 1) for i, n in enumerate(lengths)))


def test_the_whole_prompt_by_hand() -> None:
    prompt = build_prompt(parts(3), SEPARATOR, window=100, cut="head")
    assert prompt.token_ids.tolist() == [1000, 1001, 1002, 99, 2000, 2001, 99, 3000, 3001, 3002]
    assert (prompt.context, prompt.responses, prompt.n_dropped) == ((0, 3), ((7, 10),), 0)
    assert prompt.response_positions().tolist() == [7, 8, 9]


def test_without_context_the_prompt_starts_with_the_instruction() -> None:
    prompt = build_prompt(parts(0), SEPARATOR, window=100, cut="head")
    assert prompt.token_ids.tolist() == [2000, 2001, 99, 3000, 3001, 3002]
    assert prompt.context == (0, 0)
    assert segments_of(prompt.context, 128) == []


@pytest.mark.parametrize(("cut", "kept"), [("head", [1006, 1007, 1008, 1009]), ("middle", [1000, 1001, 1008, 1009])])
def test_a_context_too_long_is_cut_by_policy(cut: str, kept: list[int]) -> None:
    # BOS 1, four context tokens, a joint, instruction 2, a joint, response 3: twelve.
    prompt = build_prompt(parts(10), SEPARATOR, window=12, cut=cut)
    assert prompt.token_ids[: prompt.context[1]].tolist() == kept
    assert prompt.n_dropped == 6


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match="context_cut 'tail' is unknown"):
        build_prompt(parts(10), SEPARATOR, window=12, cut="tail")


def later(instruction: int, response: int) -> tuple[np.ndarray, np.ndarray]:
    """Instruction ids from 4000, response ids from 5000."""
    return np.arange(instruction, dtype=np.int32) + 4000, np.arange(response, dtype=np.int32) + 5000


def test_later_exchanges_by_hand() -> None:
    whole = replace(parts(3, 1, 2), later=[later(2, 1), later(1, 2)])
    prompt = build_prompt(whole, SEPARATOR, window=100, cut="head")
    first, second, third = [2000, 99, 3000, 3001], [4000, 4001, 99, 5000], [4000, 99, 5000, 5001]
    assert prompt.token_ids.tolist() == [1000, 1001, 1002, 99, *first, 99, *second, 99, *third]
    assert prompt.responses == ((6, 8), (12, 13), (16, 18))
    assert prompt.token_ids[prompt.response_positions()].tolist() == [3000, 3001, 5000, 5000, 5001]


def test_a_prompt_with_a_part_of_its_context_keeps_its_responses() -> None:
    whole = replace(parts(6, 1, 2), later=[later(2, 1)])
    prompt = build_prompt(whole, SEPARATOR, window=100, cut="head").with_context(2, 4)
    assert prompt.token_ids.tolist() == [1002, 1003, 99, 2000, 99, 3000, 3001, 99, 4000, 4001, 99, 5000]
    assert (prompt.context, prompt.responses) == ((0, 2), ((5, 7), (11, 12)))


@given(
    context=st.integers(0, 60),
    instruction=st.integers(0, 5),
    response=st.integers(1, 9),
    window=st.integers(18, 80),
    cut=st.sampled_from(["head", "middle"]),
)
def test_nothing_but_the_context_is_ever_cut(
    context: int, instruction: int, response: int, window: int, cut: str
) -> None:
    whole = parts(context, instruction, response)
    prompt = build_prompt(whole, SEPARATOR, window=window, cut=cut)
    assert 1 + len(prompt.token_ids) <= window
    assert prompt.token_ids[slice(*prompt.responses[0])].tolist() == whole.response.tolist()
    assert prompt.context[1] + prompt.n_dropped == context
    assert prompt.n_dropped == 0 or 1 + len(prompt.token_ids) >= window - 1, "no more is cut than must be"


def test_segments_tile_the_context() -> None:
    assert segments_of((0, 300), 128) == [(0, 128), (128, 256), (256, 300)]
    assert segments_of((0, 256), 128) == [(0, 128), (128, 256)]
