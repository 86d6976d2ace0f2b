"""Batches hold every sequence once, keep to their budget, and put each token where the alignment says."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from el_resources.scoring.batching import ScoreRequest, input_lengths, pad_batch, plan_batches

LENGTHS = st.lists(st.integers(0, 300), max_size=60)


@given(LENGTHS, st.integers(1, 1000))
def test_every_sequence_with_inputs_is_in_exactly_one_batch(lengths: list[int], budget: int) -> None:
    planned = [index for batch in plan_batches(lengths, budget) for index in batch]
    assert sorted(planned) == [index for index, length in enumerate(lengths) if length]


@given(LENGTHS, st.integers(1, 1000))
def test_only_a_sequence_that_is_longer_than_the_budget_exceeds_it(lengths: list[int], budget: int) -> None:
    for batch in plan_batches(lengths, budget):
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1


@given(LENGTHS, st.integers(1, 1000))
def test_longest_come_first_and_no_batch_could_take_the_next_sequence(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    ordered = [lengths[index] for batch in batches for index in batch]
    assert ordered == sorted(ordered, reverse=True)
    for batch, _ in pairwise(batches):
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_a_plan_by_hand() -> None:
    assert plan_batches([10, 0, 30, 10, 20], max_batch_tokens=40) == [[2], [4, 0], [3]]
    assert plan_batches([], max_batch_tokens=40) == []
    assert plan_batches([0, 0], max_batch_tokens=40) == []
    assert plan_batches([10, 0, 30, 10, 20], max_batch_tokens=40, kinds=[0, 0, 7, 0, 7]) == [[2], [4], [0, 3]]


def test_a_padded_batch_by_hand() -> None:
    requests = [
        ScoreRequest(token_ids=np.array([11, 12, 13, 14]), positions=np.array([2, 0])),
        ScoreRequest(token_ids=np.array([21, 22, 23]), positions=np.array([0])),
    ]
    batch = pad_batch(requests, bos_id=1)
    # Tokens 13 and 14 are not read: the last wanted token, 13, is predicted from what stands before it.
    assert batch.inputs_BN.tolist() == [[1, 11, 12], [1, 1, 1]]
    assert batch.rows_R.tolist() == [2, 0, 3]
    assert batch.targets_R.tolist() == [13, 11, 21]


@given(st.lists(st.lists(st.integers(0, 50), max_size=6), min_size=1, max_size=8))
def test_costs_are_known_before_the_run(wanted: list[list[int]]) -> None:
    sequences = [np.arange(51)] * len(wanted)
    positions = [np.array(chosen, dtype=np.int64) for chosen in wanted]
    requests = [ScoreRequest(token_ids=ids, positions=chosen) for ids, chosen in zip(sequences, positions, strict=True)]
    assert input_lengths(sequences, positions).tolist() == [request.n_inputs for request in requests]
