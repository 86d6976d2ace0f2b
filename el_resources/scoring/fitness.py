"""Models that are refused before they read anything: decoders of encoder-decoder models, and weights with NaN."""

from typing import Any

import torch

from el_resources.scoring.body import hidden_states

# Names in transformers of the attention of a decoder on its encoder.
_ON_ENCODER = ("encoder_attn", "crossattention", "cross_attn", "EncDecAttention", "encdec_attn")

# Errors of models for calls that they do not support.
FAILURES = (
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    RuntimeError,
)
_FEW_TOKENS = 8


@torch.inference_mode()
def refuse_unfit(model: Any) -> None:
    """Refuse a model that cannot be scored at all, by its class and its weights.

    Raises:
        ValueError: it is half of an encoder-decoder model, has no head, or has weights that are not finite.
    """
    name = type(model).__name__
    if reads_an_encoder(model):
        raise ValueError(
            f"{name} is the decoder of an encoder-decoder model, whose predictions need its encoder's states; "
            "use a decoder-only causal language model"
        )
    if model.get_output_embeddings() is None:
        raise ValueError(f"{name} has no output embeddings; give a causal language model")
    for tensor_name, tensor in model.named_parameters():
        # A sum is one pass without a copy. It is finite, unless a number is not or the numbers are very large.
        if tensor.sum(dtype=torch.float32).isfinite():
            continue
        # Large numbers are infinite in float16: their scores are set aside later, with the dtype in the reason.
        faulty = tensor.isnan() if tensor.dtype == torch.float16 else ~tensor.isfinite()
        if faulty.any():
            n_faulty = int(faulty.sum())
            raise ValueError(
                f"the weights of {name} are faulty: {n_faulty} of {tensor.numel()} numbers of {tensor_name} are NaN or "
                "infinite; fetch the model again, or use another checkpoint"
            )
    why_fails = why_forward_fails(model)
    if why_fails:
        raise ValueError(
            f"{name} cannot be scored: a plain forward fails ({why_fails}); "
            "use another decoder-only causal language model"
        )


def why_forward_fails(model: Any) -> str:
    """Return the error of a model that reads a few tokens, in one line; empty if it returns logits."""
    n_tokens = min(_FEW_TOKENS, model.get_input_embeddings().weight.shape[0])
    try:
        _ = model(input_ids=torch.arange(n_tokens, device=model.device)[None], use_cache=False).logits
        hidden_states(model, torch.arange(n_tokens, device=model.device)[None])
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        return told(error)
    return ""


def told(error: BaseException) -> str:
    """Return an error in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}{'…' if len(words) > 200 else ''}" if words else type(error).__name__


def reads_an_encoder(model: Any) -> bool:
    """Return true for the decoder of an encoder-decoder model; layers that read images (Mllama) do not count."""
    if getattr(model.config.get_text_config(), "cross_attention_layers", None):
        return False
    if getattr(model.config, "is_encoder_decoder", False):
        return True
    return any(name.rsplit(".", 1)[-1] in _ON_ENCODER for name, _ in model.named_modules())
