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
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from el_resources.scoring.attention import Layout, Piece, reading, to_device
from el_resources.scoring.batching import Family, ScoreRequest, pack, plan_batches
from el_resources.scoring.segment_mass import AttentionWatcher

_ATTENTION_TYPES = {"full_attention", "sliding_attention"}
_PROBE_LENGTHS = (7, 5)


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
    """Reads a batch as one row, without padding.

    Attributes:
        compiled: whether the layers run compiled, which pays on a GPU and costs ten seconds at first.
    """

    def __init__(self, model: Any, bos_id: int) -> None:
        self._model = model
        self._bos_id = bos_id
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
        hidden_TD = read_packed(self._model, inputs_1T, places_1T, packed.pieces, watcher)
        rows_R, targets_R = (to_device(values, device) for values in (packed.rows_R, packed.targets_R))
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
    generator = np.random.default_rng(0)
    n_tokens = model.get_input_embeddings().weight.shape[0]
    alone = [torch.from_numpy(generator.integers(0, n_tokens, (1, n))).to(model.device) for n in _PROBE_LENGTHS]
    places = [torch.arange(one.shape[1], device=model.device)[None] for one in alone]
    first, second = _PROBE_LENGTHS
    pieces = [Piece(0, first), Piece(first, first + second)]
    try:
        found = read_packed(model, torch.cat(alone, dim=1), torch.cat(places, dim=1), pieces).float()
    except (ValueError, TypeError, AssertionError) as error:
        return str(error) or type(error).__name__
    states = [model.base_model(input_ids=one, use_cache=False).last_hidden_state[0].float() for one in alone]
    expected = torch.cat(states)
    gap, largest = float((found - expected).abs().max()), float(expected.abs().max())
    # What rounding alone does; a token that sees another sequence moves by far more.
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return "" if gap <= tolerance * largest + 1e-6 else "its hidden states depend on what stands before a sequence"


def decoder_layers(model: Any) -> Sequence[Any]:
    """The layers of a model's body; none where it does not keep them in a list called `layers`."""
    return list(getattr(model.base_model, "layers", ()))
