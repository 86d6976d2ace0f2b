"""Readers, which put a batch of sequences through a model's body: packed in one row, or padded to a rectangle.

Shapes: T inputs of a packed batch, B sequences of a padded one, N inputs of the longest of them, R wanted rows, D
hidden width.

Packed is the default (attention.py, batching.py); padded is for models for which packing is not exact. probe.py tries a
model and chooses.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from el_resources.scoring.attention import Layout, reading, to_device
from el_resources.scoring.batching import Family, ScoreRequest, pack, plan_batches
from el_resources.scoring.body import hidden_states
from el_resources.scoring.last_layer import decoder_layers, on_rows_alone
from el_resources.scoring.pieces import Piece
from el_resources.scoring.segment_mass import AttentionWatcher

# Largest share of wanted rows for which the last layer runs on these rows alone.
FEW_ROWS = 0.5


class Reader(Protocol):
    """Planner and reader of batches."""

    def plan(
        self, requests: Sequence[ScoreRequest], kinds: Sequence[int], max_inputs: int, wanted: Iterable[int]
    ) -> list[list[Family]]:
        """Return batches that together contain the wanted requests."""
        ...

    def read(self, requests: Sequence[ScoreRequest], batch: Sequence[Family]) -> tuple[Tensor, Tensor]:
        """Return hidden states R × D and targets of the batch's wanted rows, in the order of its families' members."""
        ...


class PackedReader:
    """Reader of a batch as one row without padding; the last layer runs on the wanted rows alone if these are few.

    Attributes:
        compiled: true if the layers run compiled, which is faster on a GPU and takes ten seconds at first.
    """

    def __init__(self, model: Any, bos_id: int, parts_by_row: Sequence[nn.Module] = ()) -> None:
        """Wrap a model and the parts of its last layer that can run on the wanted rows alone."""
        self._model = model
        self._bos_id = bos_id
        self._parts_by_row = parts_by_row
        self.compiled = False

    def compile(self) -> None:
        """Compile the model's layers in place, for any length."""
        if not self.compiled:
            for layer in decoder_layers(self._model):
                layer.compile(dynamic=True)
            self.compiled = True

    def plan(
        self, requests: Sequence[ScoreRequest], kinds: Sequence[int], max_inputs: int, wanted: Iterable[int]
    ) -> list[list[Family]]:
        return plan_batches(requests, kinds, max_inputs, wanted)

    def read(
        self, requests: Sequence[ScoreRequest], batch: Sequence[Family], watcher: AttentionWatcher | None = None
    ) -> tuple[Tensor, Tensor]:
        packed, device = pack(requests, batch, self._bos_id), self._model.device
        inputs_1T, places_1T = (to_device(values[None], device) for values in (packed.inputs_T, packed.places_T))
        rows_R, targets_R = (to_device(values, device) for values in (packed.rows_R, packed.targets_R))
        once = np.unique(packed.rows_R)
        few = self._parts_by_row and len(once) <= FEW_ROWS * len(packed.inputs_T)
        with on_rows_alone(self._model, self._parts_by_row, to_device(once, device)) if few else nullcontext():
            hidden_TD = read_packed(self._model, inputs_1T, places_1T, packed.pieces, watcher)
        return hidden_TD[rows_R], targets_R


class PaddedReader:
    """Reader of a batch as a rectangle, padded on the right; attention is causal, so no wanted row sees padding."""

    def __init__(self, model: Any, bos_id: int) -> None:
        self._model = model
        self._bos_id = bos_id

    def plan(
        self, requests: Sequence[ScoreRequest], kinds: Sequence[int], max_inputs: int, wanted: Iterable[int]
    ) -> list[list[Family]]:
        """Return batches of similar lengths, longest first, with sequences × longest length within the budget."""
        batches: list[list[Family]] = []
        chosen = [index for index in wanted if requests[index].n_inputs]
        for index in sorted(chosen, key=lambda index: (-kinds[index], -requests[index].n_inputs)):
            family = Family(members=(index,), n_shared=0, n_inputs=requests[index].n_inputs)
            first = batches[-1][0] if batches else family
            fits = batches and first.n_inputs * (len(batches[-1]) + 1) <= max_inputs
            if fits and kinds[first.members[0]] == kinds[index]:
                batches[-1].append(family)
            else:
                batches.append([family])
        return batches

    def read(self, requests: Sequence[ScoreRequest], batch: Sequence[Family]) -> tuple[Tensor, Tensor]:
        chosen = [requests[index] for family in batch for index in family.members]
        n_inputs = max(request.n_inputs for request in chosen)
        inputs_BN = np.full((len(chosen), n_inputs), self._bos_id, dtype=np.int64)
        for row, request in enumerate(chosen):
            inputs_BN[row, : request.n_inputs] = request.inputs(self._bos_id)
        # Row t of a sequence predicts its token t (see engine.py).
        rows_R = np.concatenate([row * n_inputs + request.positions for row, request in enumerate(chosen)])
        targets_R = np.concatenate([request.token_ids[request.positions] for request in chosen])
        device = self._model.device
        hidden_BND = hidden_states(self._model, to_device(inputs_BN, device))
        return hidden_BND.flatten(0, 1)[to_device(rows_R, device)], to_device(targets_R, device)


def read_packed(
    model: Any, inputs_1T: Tensor, places_1T: Tensor, pieces: Sequence[Piece], watcher: AttentionWatcher | None = None
) -> Tensor:
    """Return the hidden states T × D of a packed row."""
    with reading(model, Layout.of(pieces, model.device, watcher)):
        return hidden_states(model, inputs_1T, position_ids=places_1T)[0]
