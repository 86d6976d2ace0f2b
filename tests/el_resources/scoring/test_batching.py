"""Batches hold every sequence once, keep to their budget, and put each token where the alignment says."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from el_resources.scoring.batching import Family, ScoreRequest, input_lengths, pack, plan_batches
from el_resources.scoring.pieces import Piece

# Sequences over two tokens, so that many begin alike: (tokens, tokens in common, last wanted position).
SHAPES = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(0, 6), st.integers(0, 11)), max_size=25
)
Shapes = list[tuple[list[int], int, int]]


def requests_of(shapes: Shapes) -> list[ScoreRequest]:
    """Requests of the given shapes; a wanted position that does not exist makes one that wants nothing."""
    return [
        ScoreRequest(
            token_ids=np.array(tokens),
            positions=np.array([last] if last < len(tokens) else [], dtype=np.int64),
            n_common=min(n_common, len(tokens)),
        )
        for tokens, n_common, last in shapes
    ]


def request(length: int, last: int, n_common: int = 0, beginning: int = 0) -> ScoreRequest:
    tokens = np.concatenate([np.full(n_common, beginning), np.arange(100, 100 + length - n_common)])
    return ScoreRequest(token_ids=tokens, positions=np.array([last]), n_common=n_common)


@given(SHAPES, st.integers(1, 40))
def test_every_sequence_with_inputs_is_in_exactly_one_batch(shapes: Shapes, budget: int) -> None:
    requests = requests_of(shapes)
    batches = plan_batches(requests, [0] * len(requests), budget)
    planned = [index for batch in batches for family in batch for index in family.members]
    assert sorted(planned) == [index for index, one in enumerate(requests) if one.n_inputs]


@given(SHAPES, st.integers(1, 40))
def test_only_a_sequence_that_is_longer_than_the_budget_exceeds_it(shapes: Shapes, budget: int) -> None:
    requests = requests_of(shapes)
    for batch in plan_batches(requests, [0] * len(requests), budget):
        assert sum(family.n_inputs for family in batch) <= budget or [len(one.members) for one in batch] == [1]


@given(SHAPES, st.integers(1, 40))
def test_a_family_begins_alike_and_reads_its_beginning_once(shapes: Shapes, budget: int) -> None:
    requests = requests_of(shapes)
    for batch in plan_batches(requests, [0] * len(requests), budget):
        for family in batch:
            members = [requests[index] for index in family.members]
            assert len({one.token_ids[: family.n_shared].tobytes() for one in members}) == 1
            assert all(one.positions.min() >= family.n_shared for one in members)
            own = sum(one.n_inputs for one in members)
            assert family.n_inputs == own - (len(members) - 1) * family.n_shared


@given(SHAPES, st.integers(1, 40))
def test_longest_come_first_and_no_batch_could_take_the_next_family(shapes: Shapes, budget: int) -> None:
    requests = requests_of(shapes)
    batches = plan_batches(requests, [0] * len(requests), budget)
    sizes = [family.n_inputs for batch in batches for family in batch]
    assert sizes == sorted(sizes, reverse=True)
    for batch, following in pairwise(batches):
        assert sum(one.n_inputs for one in batch) + following[0].n_inputs > budget


@given(SHAPES, st.integers(1, 40))
def test_packing_puts_every_prediction_behind_what_it_reads(shapes: Shapes, budget: int) -> None:
    requests = requests_of(shapes)
    for families in plan_batches(requests, [0] * len(requests), budget):
        batch = pack(requests, families, bos_id=9)
        members = (requests[index] for family in families for index in family.members)
        for one, row, target in zip(members, batch.rows_R, batch.targets_R, strict=True):
            (piece,) = [piece for piece in batch.pieces if piece.start <= row < piece.end]
            seen = [*range(piece.shared_start, piece.shared_end), *range(piece.start, row + 1)]
            wanted = int(one.positions[0])
            assert batch.inputs_T[seen].tolist() == [9, *one.token_ids[:wanted]]
            assert batch.places_T[seen].tolist() == list(range(wanted + 1))
            assert target == one.token_ids[wanted]


def test_a_plan_by_hand() -> None:
    requests = [request(length, length - 1) for length in (10, 30, 10, 20)]
    plan = plan_batches(requests, [0, 0, 0, 0], 40)
    assert [[family.members for family in batch] for batch in plan] == [[(1,)], [(3,), (0,), (2,)]]
    by_kind = plan_batches(requests, [0, 7, 0, 7], 60)
    assert [[family.members for family in batch] for batch in by_kind] == [[(1,), (3,)], [(0,), (2,)]]
    assert plan_batches([], [], 40) == []


def test_a_family_by_hand() -> None:
    # Two that begin with the same five tokens, one that begins with others, one that wants a position in its beginning.
    requests = [request(8, 7, 5), request(9, 8, 5), request(8, 7, 5, beginning=1), request(8, 4, 5)]
    ((family, *others),) = plan_batches(requests, [0] * 4, 100)
    assert family == Family(members=(1, 0), n_shared=5, n_inputs=5 + 4 + 3)
    assert [(one.members, one.n_shared, one.n_inputs) for one in others] == [((2,), 0, 8), ((3,), 0, 5)]
    # A budget of ten inputs holds the beginning and one member.
    assert {one.n_shared for batch in plan_batches(requests, [0] * 4, 10) for one in batch} == {0}


def test_a_packed_batch_by_hand() -> None:
    requests = [
        ScoreRequest(token_ids=np.array([11, 12, 13, 14]), positions=np.array([3, 2]), n_common=2),
        ScoreRequest(token_ids=np.array([11, 12, 15, 16]), positions=np.array([2]), n_common=2),
        ScoreRequest(token_ids=np.array([21, 22, 23]), positions=np.array([0])),
    ]
    families = [Family(members=(0, 1), n_shared=2, n_inputs=5), Family(members=(2,), n_shared=0, n_inputs=1)]
    batch = pack(requests, families, bos_id=1)
    # Shared: BOS, 11. Then 12, 13 of the first and 12 of the second, each after the shared inputs. Tokens 14, 15, 16
    # and all of the third are not read: what is predicted need not be.
    assert batch.inputs_T.tolist() == [1, 11, 12, 13, 12, 1]
    assert batch.places_T.tolist() == [0, 1, 2, 3, 2, 0]
    assert batch.pieces == (Piece(0, 2), Piece(2, 4, 0, 2), Piece(4, 5, 0, 2), Piece(5, 6))
    assert batch.rows_R.tolist() == [3, 2, 4, 5]
    assert batch.targets_R.tolist() == [14, 13, 15, 21]


@given(st.lists(st.lists(st.integers(0, 50), max_size=6), min_size=1, max_size=8))
def test_costs_are_known_before_the_run(wanted: list[list[int]]) -> None:
    sequences = [np.arange(51)] * len(wanted)
    positions = [np.array(chosen, dtype=np.int64) for chosen in wanted]
    requests = [ScoreRequest(token_ids=ids, positions=chosen) for ids, chosen in zip(sequences, positions, strict=True)]
    assert input_lengths(sequences, positions).tolist() == [one.n_inputs for one in requests]
