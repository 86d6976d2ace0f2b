"""Ways to put a batch of sequences through a model's body: packed in one row, or padded to a rectangle.

Shapes: T inputs of a packed batch, B sequences of a padded one, N inputs of the longest of them, R wanted rows, D
hidden width.

Packed is the default (attention.py, batching.py). A model is read padded where packing is not exact: what mixes tokens
elsewhere than in attention (recurrent models), asks for attention that is not done here (capped scores, sinks, biases,
chunked layers), or gives other hidden states on a probe of two short sequences than it gives for each alone. That costs
padding, and such a model cannot be watched; one warning says why.
"""

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from el_resources.scoring.attention import Layout, Piece, reading, to_device
from el_resources.scoring.batching import Family, ScoreRequest, pack, plan_batches
from el_resources.scoring.last_layer import decoder_layers, on_rows_alone, parts_by_row
from el_resources.scoring.segment_mass import AttentionWatcher

_ATTENTION_TYPES = {"full_attention", "sliding_attention"}
_PROBE_LENGTHS = (7, 5)

# Share of a batch's inputs up to which its wanted rows alone go through the last layer.
FEW_ROWS = 0.5


class Reader(Protocol):
    """Plans batches and reads them."""

    def plan(
        self, requests: Sequence[ScoreRequest], kinds: Sequence[int], max_inputs: int, wanted: Iterable[int]
    ) -> list[list[Family]]:
        """Batches that together hold the wanted requests."""
        ...

    def read(self, requests: Sequence[ScoreRequest], batch: Sequence[Family]) -> tuple[Tensor, Tensor]:
        """Hidden states R × D of the batch's wanted rows, and their targets, in the order of its families' members."""
        ...


class PackedReader:
    """Reads a batch as one row, without padding, and runs the last layer on the wanted rows where these are few.

    Attributes:
        compiled: whether the layers run compiled, which pays on a GPU and costs ten seconds at first.
    """

    def __init__(self, model: Any, bos_id: int) -> None:
        self._model = model
        self._bos_id = bos_id
        self._parts_by_row = parts_by_row(model) if last_layer_runs_by_row(model) else []
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
    """Reads a batch as a rectangle, padded on the right; attention is causal, so no wanted row sees padding."""

    def __init__(self, model: Any, bos_id: int) -> None:
        self._model = model
        self._bos_id = bos_id

    def plan(
        self, requests: Sequence[ScoreRequest], kinds: Sequence[int], max_inputs: int, wanted: Iterable[int]
    ) -> list[list[Family]]:
        """Longest first, neighbours together while sequences × longest stays within the budget."""
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
        hidden_BND = self._model.base_model(input_ids=to_device(inputs_BN, device), use_cache=False).last_hidden_state
        return hidden_BND.flatten(0, 1)[to_device(rows_R, device)], to_device(targets_R, device)


def choose_reader(model: Any, bos_id: int) -> tuple[PackedReader | PaddedReader, str]:
    """A packed reader and no reason; or a padded one and why, after a warning."""
    reason = why_not_packed(model)
    if not reason:
        return PackedReader(model, bos_id), ""
    warnings.warn(f"{type(model).__name__} is read in padded batches, which is slower: {reason}", stacklevel=3)
    return PaddedReader(model, bos_id), reason


def read_packed(
    model: Any, inputs_1T: Tensor, places_1T: Tensor, pieces: Sequence[Piece], watcher: AttentionWatcher | None = None
) -> Tensor:
    """Hidden states T × D of a packed row."""
    with reading(model, Layout.of(pieces, model.device, watcher)):
        output = model.base_model(input_ids=inputs_1T, position_ids=places_1T, use_cache=False)
    hidden_TD: Tensor = output.last_hidden_state[0]
    return hidden_TD


@torch.inference_mode()
def why_not_packed(model: Any) -> str:
    """Why packed batches would not be exact for this model, in words; empty where they are."""
    config = model.config.get_text_config()
    strange = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_TYPES)
    if strange or getattr(config, "attention_chunk_size", None):
        return f"it has layers of the kind {', '.join(strange) or 'chunked_attention'}"
    alone, row = _probe(model)
    try:
        found_TD = read_packed(model, *row)
    except (ValueError, TypeError, AssertionError) as error:
        return str(error) or type(error).__name__
    states = [model.base_model(input_ids=one, use_cache=False).last_hidden_state[0] for one in alone]
    return "" if _alike(found_TD, torch.cat(states)) else "its hidden states depend on what stands before a sequence"


@torch.inference_mode()
def last_layer_runs_by_row(model: Any) -> bool:
    """Whether the last layer gives the same for wanted rows when its parts work on these alone."""
    parts, (_, row) = parts_by_row(model), _probe(model)
    rows_R = torch.tensor([1, 4, 8], device=model.device)
    try:
        with on_rows_alone(model, parts, rows_R):
            found_TD = read_packed(model, *row)
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError):
        return False  # parts of these names that are something else
    return _alike(found_TD[rows_R], read_packed(model, *row)[rows_R])


def _probe(model: Any) -> tuple[list[Tensor], tuple[Tensor, Tensor, list[Piece]]]:
    """Two short sequences, each 1 × N; and the row of both: inputs, places and pieces."""
    generator = np.random.default_rng(0)
    n_tokens = model.get_input_embeddings().weight.shape[0]
    alone = [torch.from_numpy(generator.integers(0, n_tokens, (1, n))).to(model.device) for n in _PROBE_LENGTHS]
    places = [torch.arange(one.shape[1], device=model.device)[None] for one in alone]
    first, second = _PROBE_LENGTHS
    pieces = [Piece(0, first), Piece(first, first + second)]
    return alone, (torch.cat(alone, dim=1), torch.cat(places, dim=1), pieces)


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Whether nothing but rounding differs; a token that sees another sequence moves by far more."""
    gap, largest = float((found.float() - expected.float()).abs().max()), float(expected.float().abs().max())
    return gap <= (1e-3 if expected.dtype == torch.float32 else 5e-2) * largest + 1e-6
