"""RoPE with frequencies that depend on the length: here on the length of each sequence, and not of its batch.

With dynamic NTK scaling a short-window model can read beyond its window without training. If a sequence has more tokens
n than the trained window T, the base of the rotary frequencies becomes larger:

    base · (factor · n / T - factor + 1) ^ (d / (d - 2))        d: rotated dimensions; factor: wanted window / T

transformers takes n from the longest sequence of the batch and keeps the frequencies until a longer batch comes, so a
score would depend on the other sequences of the batch and on earlier batches. LongRoPE switches between two sets of
frequencies in the same way.

Algorithm: during a forward, `LengthScaledRope` disables transformers' choice and sets the frequencies that the formula
of transformers gives for the length of the whole sequence, BOS included, even if the sequence is cut earlier.
Guarantees: a sequence's scores depend on its own tokens only, not on the wanted positions, on its batch or on earlier
batches. The model is restored afterwards, also after an error.
Costs: sequences longer than T share a batch only with sequences of the same length (their length class).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

RopeScaling = Literal["none", "dynamic"]

_FOLLOW_LENGTH = {"dynamic", "longrope"}


@dataclass(frozen=True, kw_only=True)
class LengthScaledRope:
    """The rotary embeddings of a model that have length-dependent frequencies; most models have none."""

    rotaries: tuple[Any, ...]

    @classmethod
    def of(cls, model: Any) -> Self:
        """Return the rotary embeddings of a model that is on its device."""
        rotaries = [module for module in model.modules() if _rope_types(module) & _FOLLOW_LENGTH]
        for rotary in rotaries:
            if not isinstance(rotary.rope_type, str):
                raise ValueError(
                    f"{type(model).__name__} scales the RoPE of some layer types by length ({rotary.rope_type}), which "
                    "is not known here; score with another model"
                )
        return cls(rotaries=tuple(rotaries))

    def scaled_length(self, n_inputs: int) -> int:
        """Return the length class of a sequence: its length if that exceeds T, else 0.

        Sequences of one class have the same frequencies and may share a batch.
        """
        beyond = any(n_inputs > _trained_window(rotary) for rotary in self.rotaries)
        return n_inputs if beyond else 0

    @contextmanager
    def reading(self, n_inputs: int) -> Iterator[None]:
        """Set the frequencies of a sequence of this many inputs, BOS included, inside the context."""
        with ExitStack() as stack:
            for rotary in self.rotaries:
                stack.enter_context(_fixed_frequencies(rotary, n_inputs))
            yield


def extend_window(config: Any, window: int | None) -> None:
    """Set dynamic NTK scaling to a wider window in a config, before the model is made.

    `max_position_embeddings` does not change, since the formula takes the trained window from there.
    """
    config = config.get_text_config()
    trained = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "default" or not isinstance(trained, int):
        raise ValueError(
            f"the model's RoPE cannot be extended: its config has the parameters {rope} and a window of {trained}; "
            "dynamic scaling needs plain RoPE, the same in all layers; use rope_scaling='none'"
        )
    if window is None or window <= trained:
        raise ValueError(
            f"dynamic RoPE scaling to a window of {window}: the model reads {trained} as it is; "
            "give a larger window, or use rope_scaling='none'"
        )
    config.rope_parameters = {**rope, "rope_type": "dynamic", "factor": window / trained}


def readable_window(config: Any, override: int | None) -> int:
    """Return the number of inputs that a model may read at once: the override, else that of its config."""
    text = config.get_text_config()
    stated = getattr(text, "max_position_embeddings", None)
    stated = stated if isinstance(stated, int) and stated > 0 else None  # XLNet says -1 for any length
    window = stated if override is None else override
    if not isinstance(window, int):
        raise ValueError("the model's config states no max_position_embeddings; give the window explicitly")
    if window < 1:
        raise ValueError(f"window is {window}; give at least 1, or None for the default")
    if isinstance(stated, int) and window > stated and not getattr(text, "rope_parameters", None):
        raise ValueError(f"window is {window}: the model has {stated} positions and no RoPE; give at most {stated}")
    return window


def check_scaling(rope_scaling: str) -> None:
    """Raise ValueError if no scaling has this name."""
    if rope_scaling not in get_args(RopeScaling):
        raise ValueError(f"RoPE scaling {rope_scaling!r} is unknown; choose one of {', '.join(get_args(RopeScaling))}")


@contextmanager
def _fixed_frequencies(rotary: Any, n_inputs: int) -> Iterator[None]:
    """Set the frequencies of one length, and disable transformers' own choice, inside the context."""
    rope_type, inv_freq, parameters = rotary.rope_type, rotary.inv_freq, rotary.config.rope_parameters
    rotary.inv_freq = _inverse_frequencies(rotary, n_inputs)
    if "long_mscale" in parameters:  # PhiMoE also scales its rotations by the length that it reads
        scale = parameters["long_mscale" if n_inputs > _trained_window(rotary) else "short_mscale"]
        rotary.config.rope_parameters = {**parameters, "long_mscale": scale, "short_mscale": scale}
    rotary.rope_type = "default"  # a type that transformers' forward ignores
    try:
        yield
    finally:
        rotary.rope_type, rotary.inv_freq, rotary.config.rope_parameters = rope_type, inv_freq, parameters


def _inverse_frequencies(rotary: Any, n_inputs: int) -> torch.Tensor:
    """Return the frequencies that transformers would use on a fresh model for a batch of one such sequence."""
    device = rotary.inv_freq.device
    if n_inputs <= _trained_window(rotary):
        frequencies: torch.Tensor = rotary.original_inv_freq.to(device)
        return frequencies
    length = torch.tensor(n_inputs, device=device)  # as a tensor, the formula rounds as in transformers' forward
    frequencies, _ = ROPE_INIT_FUNCTIONS[rotary.rope_type](rotary.config, device, seq_len=length)
    return frequencies


def _trained_window(rotary: Any) -> int:
    """Return the length up to which the frequencies are those of training."""
    if rotary.rope_type == "longrope":
        return int(rotary.config.rope_parameters["original_max_position_embeddings"])
    return int(rotary.original_max_seq_len)


def _rope_types(module: Any) -> set[str]:
    """Return the RoPE types of a rotary embedding: one, or one for each type of layer; empty for other modules."""
    rope_type = getattr(module, "rope_type", None)
    if isinstance(rope_type, dict):
        return set(rope_type.values())
    return {rope_type} if isinstance(rope_type, str) else set()
