"""The body of a causal language model of any class: the model without its head."""

from typing import Any

from torch import Tensor


def body_of(model: Any) -> Any:
    """Return the part of a model that turns token ids into hidden states.

    Classes taken from a larger model (Llama 4, Mllama) name a base that they do not have; theirs is called `model`.
    """
    base = model.base_model
    return getattr(model, "model", base) if base is model else base


def hidden_states(model: Any, inputs_BN: Tensor, **options: Any) -> Tensor:
    """Return the hidden states B × N × D of a plain forward."""
    output = body_of(model)(input_ids=inputs_BN, use_cache=False, **options)
    hidden_BND: Tensor = output.last_hidden_state
    return hidden_BND
