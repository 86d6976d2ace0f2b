"""Plan of batches: the inputs that a model has to read, and the sequences that it reads together.

Shapes: T inputs of a packed batch, R wanted rows of it.

Algorithm: a sequence is cut after its last wanted position. Sequences form a family if they declare the same first
tokens as common (`n_common`) and want no scores there. By prefix sharing, a family's prefix is read once, and each
sequence's own inputs follow it (attention.py). Families fill batches up to a budget of inputs, without padding, those
with the most inputs first. A family that exceeds the budget is divided, and a sequence that exceeds it by itself has a
batch of its own.
Guarantees: every sequence that has inputs is in exactly one batch; equal requests give equal plans.
Costs: each sequence of a family reads the last common token itself, since that input predicts its first own token.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from el_resources.scoring.pieces import Piece

IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """A request for the predictions at some positions of one sequence.

    Attributes:
        n_common: number of its first tokens that other sequences may share; 0 for none.
    """

    token_ids: IntArray
    positions: IntArray
    n_common: int = 0

    @property
    def n_inputs(self) -> int:
        """Number of inputs to read, BOS included: predicting token t needs BOS and the t tokens before it."""
        return int(self.positions.max()) + 1 if len(self.positions) else 0

    @property
    def whole_length(self) -> int:
        """Number of inputs of the whole sequence, BOS included, also if it is cut earlier."""
        return 1 + len(self.token_ids)

    def inputs(self, bos_id: int) -> IntArray:
        """Return BOS and the tokens that are read."""
        return np.concatenate([[bos_id], self.token_ids[: self.n_inputs - 1]])

    def beginning(self) -> bytes | None:
        """Return the prefix by which sequences are grouped in a family; None if this one cannot share a prefix."""
        if not self.n_common or not len(self.positions) or self.positions.min() < self.n_common:
            return None
        return self.token_ids[: self.n_common].astype(np.int64).tobytes()


@dataclass(frozen=True, kw_only=True)
class Family:
    """Requests that are read together by prefix sharing.

    Attributes:
        members: numbers of the requests.
        n_shared: number of their first inputs that are read once for all of them.
        n_inputs: inputs of the family: the shared ones, and each member's own.
    """

    members: tuple[int, ...]
    n_shared: int
    n_inputs: int


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Families as one row of inputs.

    Attributes:
        pieces: shared prefixes and own inputs of sequences, as spans of the row.
        inputs_T, places_T: the inputs, and the place of each in its sequence.
        rows_R: inputs with a wanted prediction, request by request and in the order of its positions.
        targets_R: the true next token of each of these rows.
    """

    pieces: tuple[Piece, ...]
    inputs_T: NDArray[np.int64]
    places_T: NDArray[np.int64]
    rows_R: NDArray[np.int64]
    targets_R: NDArray[np.int64]


def input_lengths(sequences: Sequence[IntArray], positions: Sequence[IntArray] | None = None) -> NDArray[np.int64]:
    """Return the number of inputs of each sequence up to its last wanted position, BOS included.

    This is the cost of scoring without prefix sharing, and the unit of progress.
    """
    if positions is None:
        return np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    return np.array([int(wanted.max()) + 1 if len(wanted) else 0 for wanted in positions], dtype=np.int64)


def plan_batches(
    requests: Sequence[ScoreRequest], kinds: Sequence[int], max_inputs: int, wanted: Iterable[int] | None = None
) -> list[list[Family]]:
    """Return batches of families, of at most `max_inputs` inputs each, those with the most inputs first.

    Args:
        kinds: length class of each request (LengthScaledRope.scaled_length). Requests of different classes are not read
            together; the highest class comes first.
        wanted: numbers of the requests to plan; all by default.
    """
    # Group by prefix.
    groups: dict[tuple[int, bytes | int], list[int]] = defaultdict(list)
    for index in range(len(requests)) if wanted is None else wanted:
        if requests[index].n_inputs:
            beginning = requests[index].beginning()
            groups[kinds[index], index if beginning is None else beginning].append(index)
    # Divide large groups.
    families = [
        (kind, family) for (kind, _), group in groups.items() for family in _families(requests, group, max_inputs)
    ]
    # Fill the batches.
    batches: list[list[Family]] = []
    room, open_kind = 0, None
    for kind, family in sorted(families, key=lambda one: (-one[0], -one[1].n_inputs)):
        if not batches or kind != open_kind or family.n_inputs > room:
            batches.append([])
            room, open_kind = max_inputs, kind
        batches[-1].append(family)
        room -= family.n_inputs
    return batches


def _families(requests: Sequence[ScoreRequest], group: Sequence[int], max_inputs: int) -> Iterator[Family]:
    """Divide a group with a common prefix into families within the budget; a single sequence shares nothing."""
    n_shared = requests[group[0]].n_common if len(group) > 1 else 0
    members: list[int] = []
    n_inputs = n_shared
    for index in sorted(group, key=lambda index: -requests[index].n_inputs):
        own = requests[index].n_inputs - n_shared
        # Close full families.
        if members and n_inputs + own > max_inputs:
            yield _family(requests, members, n_shared)
            members, n_inputs = [], n_shared
        members.append(index)
        n_inputs += own
    yield _family(requests, members, n_shared)


def _family(requests: Sequence[ScoreRequest], members: Sequence[int], n_shared: int) -> Family:
    if len(members) == 1:
        n_shared = 0
    own = sum(requests[index].n_inputs - n_shared for index in members)
    return Family(members=tuple(members), n_shared=n_shared, n_inputs=n_shared + own)


def pack(requests: Sequence[ScoreRequest], families: Sequence[Family], bos_id: int) -> PackedBatch:
    """Return the families' inputs in one row, with BOS before each sequence or before its shared prefix."""
    pieces, inputs, places, rows, targets = [], [], [], [], []
    end = 0

    def add(of: ScoreRequest, first: int, last: int, shared: tuple[int, int]) -> int:
        nonlocal end
        start, end = end, end + last - first
        pieces.append(Piece(start, end, *shared))
        inputs.append(of.inputs(bos_id)[first:last])
        places.append(np.arange(first, last))
        return start

    for family in families:
        # Add shared prefix.
        shared = (0, 0)
        if family.n_shared:
            start = add(requests[family.members[0]], 0, family.n_shared, shared)
            shared = (start, start + family.n_shared)
        # Add own inputs.
        for request in (requests[index] for index in family.members):
            start = add(request, family.n_shared, request.n_inputs, shared)
            # inputs  BOS  x_0  x_1 … x_{t-1}
            # predict x_0  x_1  x_2 … x_t        so input t predicts token t
            rows.append(start + request.positions - family.n_shared)
            targets.append(request.token_ids[request.positions])
    return PackedBatch(
        pieces=tuple(pieces),
        inputs_T=np.concatenate(inputs).astype(np.int64),
        places_T=np.concatenate(places).astype(np.int64),
        rows_R=np.concatenate(rows).astype(np.int64),
        targets_R=np.concatenate(targets).astype(np.int64),
    )
