"""Test of a model before it scores: can it be read in packed or padded batches with the scores of a plain forward?

Shapes: T inputs of a packed batch, B sequences of a padded one, N inputs of the longest of them, D hidden width.

Algorithm: transformers' own forward reads two sequences of random tokens, each alone. If the configuration names a
window, the first sequence is longer than the smallest one.
1. Causality: another last token, or padding after it, must not change an earlier row. Otherwise the model sees the
   tokens that it should predict, and is refused.
2. Packed: both sequences in one row must give the same as each alone, and the model's own masks must show the same keys
   as packed attention (asked_masks.py), which checks windows of any size. Otherwise the model gets padded batches, and
   a warning gives the reason: it mixes tokens outside attention (recurrent models), or needs attention that is not
   supported here (capped scores, sinks, biases, chunks, sparse attention).
3. Watched: the model can be packed, and each layer attends once.
In half precision, rounding hides smaller changes, so 1 and 2 run twice: on two longer sequences in the model's own
precision, which tests its kernels, and on two short ones with float32 weights (widened.py), which shows even slight
mixing of tokens outside attention. A model that cannot run with float32 weights is tested in its own precision alone.
Guarantees: a model only scores by a reading that was compared with the plain forward. In half precision, or if a router
chooses experts, a rounding error can have large effects in a few rows, so up to a quarter of the rows may differ.
Costs: six forwards of the longer sequence, and in half precision eight more copies of the weights. The length is
bounded to some 3e10 operations on a CPU (half a second) and 1e14 on a GPU; longer windows are checked by masks alone.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from el_resources.models.attention_kinds import ATTENTION_LAYERS
from el_resources.scoring.asked_masks import AskedMask, asking, windows_named_in
from el_resources.scoring.body import hidden_states
from el_resources.scoring.fitness import FAILURES, told
from el_resources.scoring.last_layer import decoder_layers, on_rows_alone, parts_by_row
from el_resources.scoring.pieces import Piece
from el_resources.scoring.readers import PackedReader, PaddedReader, read_packed
from el_resources.scoring.widened import in_float32, is_half

# Inputs of the two sequences for a model without a window.
_LONGER, _SHORTER = 12, 7
_CPU_OPERATIONS, _CUDA_OPERATIONS, _MOST_INPUTS = 3e10, 1e14, 1280
# Largest difference in a row, relative to its largest number, and the share of rows that may differ by more. Rounding
# in bfloat16 changes a row of 32 layers with random weights by 0.06, in padded and packed batches alike (8B, one H100);
# another token before it, or a shift, changes it by 1.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
_FEW_ROWS = 0.25
# The same for two rows of one batch, which round alike: rows of causal models are then equal in any precision, and
# those of XLM, BERT and CPM-Ant differ by 0.06 to 0.3.
_ROUNDING_IN_A_BATCH = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


_Answer = TypeVar("_Answer", str, bool)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A way to read a model.

    Attributes:
        why_padded: reason for which packed batches would not be exact; empty if they are.
        why_not_watched: reason for which the attention of its layers cannot be watched; empty if it can.
    """

    reader: PackedReader | PaddedReader
    why_padded: str
    why_not_watched: str


@torch.inference_mode()
def choose_reading(model: Any, bos_id: int, max_inputs: int) -> Reading:
    """Test a model with at most `max_inputs` inputs, and choose its reader, with a warning if that is the padded one.

    Raises:
        ValueError: the model cannot be read, or sees the tokens that it should predict.
    """
    name = type(model).__name__
    probe, exact = _Probe.of(model, max_inputs), _ExactProbe.of(model, max_inputs)
    why_refused = probe.why_refused(model) or exact.why_refused(model)
    if why_refused:
        raise ValueError(f"{name} cannot be scored: {why_refused}; use a decoder-only causal language model")
    why_padded, n_attending = probe.why_not_packed(model)
    why_padded = why_padded or exact.why_not_packed(model)
    if why_padded:
        warnings.warn(f"{name} is read in padded batches, which is slower: {why_padded}", stacklevel=3)
        return Reading(reader=PaddedReader(model, bos_id), why_padded=why_padded, why_not_watched=why_padded)
    parts = parts_by_row(model)
    by_row = probe.runs_by_row(model, parts) and exact.runs_by_row(model, parts)
    reader = PackedReader(model, bos_id, parts if by_row else [])
    n_layers = model.config.get_text_config().num_hidden_layers
    watched = "" if n_attending == n_layers else f"its {n_layers} layers attend {n_attending} times"
    return Reading(reader=reader, why_padded="", why_not_watched=watched)


def why_not_packed(model: Any) -> str:
    """Return why packed batches would not be exact for this model, in words; empty if they are."""
    with torch.inference_mode():
        why_padded = _Probe.of(model, _MOST_INPUTS).why_not_packed(model)[0]
        return why_padded or _ExactProbe.of(model, _MOST_INPUTS).why_not_packed(model)


def last_layer_runs_by_row(model: Any) -> bool:
    """Return true if the last layer gives the same for the wanted rows if its parts work on these alone."""
    with torch.inference_mode():
        probes = (_Probe.of(model, _MOST_INPUTS), _ExactProbe.of(model, _MOST_INPUTS))
        return all(probe.runs_by_row(model, parts_by_row(model)) for probe in probes)


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """Two test sequences, each 1 × N, with the precision and the first one's inputs within the smallest window."""

    first: Tensor
    second: Tensor
    n_near: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: Any, max_inputs: int) -> "_Probe":
        return cls.of_length(model, *_length(model, max_inputs), dtype=expected_dtype(model))

    @classmethod
    def of_length(cls, model: Any, n_longer: int, n_near: int, *, dtype: torch.dtype) -> "_Probe":
        n_tokens, generator = model.get_input_embeddings().weight.shape[0], np.random.default_rng(0)
        first, second = (
            torch.from_numpy(generator.integers(0, n_tokens, (1, n))).to(model.device)
            for n in (n_longer, min(_SHORTER, n_longer))
        )
        return cls(first=first, second=second, n_near=n_near, dtype=dtype)

    def why_refused(self, model: Any) -> str:
        """Return why the model cannot even be read padded; empty if it can."""
        changed = self.first.clone()
        changed[0, -1] = (changed[0, -1] + 1) % model.get_input_embeddings().weight.shape[0]
        padded = torch.zeros_like(self.first)
        padded[0, : self.second.shape[1]] = self.second[0]
        try:
            first, second = (hidden_states(model, one)[0] for one in (self.first, self.second))
            found_BND = hidden_states(model, torch.cat([self.first, changed, padded]))
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            return f"a plain forward fails ({told(error)})"
        if not self._alike(model, found_BND[1][:-1], found_BND[0][:-1], bounds=_ROUNDING_IN_A_BATCH):
            return "it is not causal: its state at a token changes with a later token"
        same = self._alike(model, found_BND[0], first) and self._alike(
            model, found_BND[2][: second.shape[0]], second, near=second.shape[0]
        )
        return "" if same else "it gives other hidden states in a padded batch than for each sequence alone"

    def why_not_packed(self, model: Any) -> tuple[str, int]:
        """Return (reason for which packed batches would not be exact or empty, how often the layers attend)."""
        strange = _strange_layers(model.config.get_text_config())
        if strange:
            return strange, 0
        try:
            with asking(model, self.second.shape[1]) as calls:
                asked_ND = hidden_states(model, self.second)[0]
            found_TD = read_packed(model, *self._row())
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            return _why_packing_fails(error), 0
        first, second = (hidden_states(model, one)[0] for one in (self.first, self.second))
        n_first, n_second = first.shape[0], second.shape[0]
        same = (
            self._alike(model, asked_ND, second, near=n_second)
            and self._alike(model, found_TD[:n_first], first)
            and self._alike(model, found_TD[n_first:], second, near=n_second)
        )
        return "" if same else "packed, its hidden states are not those of each sequence alone", len(calls.windows)

    def runs_by_row(self, model: Any, parts: Sequence[Any]) -> bool:
        """Return true if the last layer gives the same for the wanted rows if these parts work on them alone."""
        n_inputs = self.first.shape[1] + self.second.shape[1]
        rows_R = torch.tensor(sorted({1, 4, n_inputs - 4, n_inputs - 1}), device=model.device)
        if not decoder_layers(model):
            return False
        try:
            with on_rows_alone(model, parts, rows_R):
                found_TD = read_packed(model, *self._row())
        except torch.OutOfMemoryError:
            raise
        except FAILURES:
            return False  # parts with these names but another function
        return self._alike(model, found_TD[rows_R], read_packed(model, *self._row())[rows_R], near=len(rows_R))

    def _row(self) -> tuple[Tensor, Tensor, list[Piece]]:
        """Return both sequences in one row: inputs, places and pieces."""
        n_first, n_inputs = self.first.shape[1], self.first.shape[1] + self.second.shape[1]
        places = [torch.arange(one.shape[1], device=one.device)[None] for one in (self.first, self.second)]
        pieces = [Piece(0, n_first), Piece(n_first, n_inputs)]
        return torch.cat([self.first, self.second], dim=1), torch.cat(places, dim=1), pieces

    def _alike(
        self,
        model: Any,
        found_TD: Tensor,
        expected_TD: Tensor,
        near: int | None = None,
        bounds: Mapping[torch.dtype, float] = _ROUNDING,
    ) -> bool:
        """Return true if the rows within the smallest window, and those beyond it, differ by rounding only."""
        n_near = self.n_near if near is None else near
        found_TD, expected_TD = found_TD.float(), expected_TD.float()
        gap_T = (found_TD - expected_TD).abs().amax(dim=-1)
        strange_T = ~(gap_T <= bounds[self.dtype] * expected_TD.abs().amax(dim=-1) + 1e-6)
        strange_T &= expected_TD.isfinite().all(dim=-1)  # head.py checks rows that overflow
        exact = self.dtype == torch.float32 and not _chooses_experts(model)
        few = 0.0 if exact else _FEW_ROWS
        return all(float(part.float().mean()) <= few for part in (strange_T[:n_near], strange_T[n_near:]) if len(part))


@dataclass(frozen=True, kw_only=True)
class _ExactProbe:
    """Test of a half-precision model with float32 weights on two short sequences; None if it cannot run so."""

    short: _Probe | None

    @classmethod
    def of(cls, model: Any, max_inputs: int) -> "_ExactProbe":
        if not is_half(model):
            return cls(short=None)
        n_longer = min(_LONGER, max_inputs)
        short = _Probe.of_length(model, n_longer, n_longer, dtype=torch.float32)
        try:
            with in_float32(model):
                hidden_ND = hidden_states(model, short.second)[0]
        except (*FAILURES, torch.OutOfMemoryError):
            return cls(short=None)
        return cls(short=short if hidden_ND.dtype == torch.float32 else None)

    def why_refused(self, model: Any) -> str:
        return self._asked(model, lambda short: short.why_refused(model), "")

    def why_not_packed(self, model: Any) -> str:
        return self._asked(model, lambda short: short.why_not_packed(model)[0], "")

    def runs_by_row(self, model: Any, parts: Sequence[Any]) -> bool:
        return self._asked(model, lambda short: short.runs_by_row(model, parts), True)

    def _asked(self, model: Any, ask: Callable[[_Probe], _Answer], unknown: _Answer) -> _Answer:
        """Return the answer of the short sequences in float32; `unknown` if the model cannot run with such weights."""
        if self.short is None:
            return unknown
        try:
            with in_float32(model):
                return ask(self.short)
        except torch.OutOfMemoryError:
            return unknown


def expected_dtype(model: Any) -> torch.dtype:
    """Return the precision of hidden states: the weights' dtype, or bfloat16 for dtypes that are not listed."""
    return model.dtype if model.dtype in _ROUNDING else torch.bfloat16


def _length(model: Any, max_inputs: int) -> tuple[int, int]:
    """Return the number of inputs of the longer sequence, and the number of those within the smallest window."""
    operations = _CUDA_OPERATIONS if model.device.type == "cuda" else _CPU_OPERATIONS
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    bound = min(_MOST_INPUTS, max(_LONGER, int(operations / (12 * n_parameters))), max_inputs)
    for window in windows_named_in(model.config.get_text_config()):
        if window + max(8, window // 2) <= bound:
            return window + max(8, window // 2), window
        break
    n_inputs = min(_LONGER, bound)
    return n_inputs, n_inputs


def _strange_layers(config: Any) -> str:
    """Return in words the layer kinds of a configuration that packed attention does not support; empty if none."""
    strange = sorted(set(getattr(config, "layer_types", None) or ()) - ATTENTION_LAYERS)
    if strange or getattr(config, "attention_chunk_size", None):
        return f"it has layers of the kind {', '.join(strange) or 'chunked_attention'}"
    return ""


def _why_packing_fails(error: BaseException) -> str:
    """Return in words why a model fails in a packed forward."""
    if isinstance(error, IndexError):
        return "its masks depend on the tokens that are read"
    if AskedMask.__name__ in str(error):
        return "it applies attention masks itself"
    return str(error) if isinstance(error, ValueError) else f"packed, it fails ({told(error)})"


def _chooses_experts(model: Any) -> bool:
    return any("expert" in name and value for name, value in model.config.get_text_config().to_dict().items())
