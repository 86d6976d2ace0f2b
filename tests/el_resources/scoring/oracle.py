"""Small models with random weights, and what plain transformers say of a sequence: what the engine is compared with.

Tolerances are several times the largest gap seen. With fp32 weights the two ways differ by the order of sums (2e-5 nats
on text). With bf16 weights they differ by the rounding of activations and logits, which moves with the shape of a
batch: 0.02 nats with random weights, and 0.1 at worst on text, whose logits are larger.
"""

from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from el_resources.scoring import TokenScores

BOS = 1
VOCABULARY = 211
WINDOW = 96
LENGTHS = [1, 40, 2, WINDOW - 1, 17, 0, 3, 40, 64, WINDOW - 2]
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.08}
TEXT_TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.3}

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    # Wider than the 0.02 of real models, so that the distributions are not all close to uniform.
    "initializer_range": 0.2,
}
_GPT2_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-grouped-untied": ("LlamaConfig", {**_SHAPE, "tie_word_embeddings": False}),
    "llama-tied": ("LlamaConfig", {**_SHAPE, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen2-biased-tied": ("Qwen2Config", {**_SHAPE, "tie_word_embeddings": True}),
    "mistral-sliding-window": ("MistralConfig", {**_SHAPE, "sliding_window": 16}),
    "gemma2-capped-logits": ("Gemma2Config", {**_SHAPE, "head_dim": 8, "final_logit_softcapping": 2.0}),
    "granite-divided-logits": ("GraniteConfig", {**_SHAPE, "logits_scaling": 4.0}),
    "cohere-multiplied-logits": ("CohereConfig", {**_SHAPE, "logit_scale": 0.25}),
    "gpt2-learned-positions": ("GPT2Config", {**_GPT2_SHAPE, "initializer_range": 0.2}),
}


def build_model(architecture: str, **changes: object) -> Any:
    """A model with random weights; the same ones each time."""
    config_class, options = ARCHITECTURES[architecture]
    specials = {"bos_token_id": BOS, "eos_token_id": 2, "pad_token_id": None}
    config = getattr(transformers, config_class)(**{**options, **specials, **changes})
    torch.manual_seed(2025)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@torch.inference_mode()
def plain_scores(model: Any, token_ids: NDArray[np.integer[Any]], bos_id: int = BOS) -> TokenScores:
    """The naive way: the whole model over one sequence, and log-softmax over its full logits."""
    inputs = torch.tensor([[bos_id, *token_ids.tolist()]], device=model.device)
    log_p = torch.log_softmax(model(input_ids=inputs, use_cache=False).logits[0, :-1].double(), dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    nll = -log_p.gather(-1, inputs[0, 1:, None])[:, 0]
    return TokenScores(entropy_nats=entropy.float().cpu().numpy(), nll_nats=nll.float().cpu().numpy())


def largest_gap(found: list[TokenScores], expected: list[TokenScores]) -> float:
    """Nats between two lists of scores, at worst."""
    gaps = [0.0]
    for one, other in zip(found, expected, strict=True):
        for name in ("entropy_nats", "nll_nats"):
            a, b = getattr(one, name), getattr(other, name)
            assert a.shape == b.shape and a.dtype == b.dtype == np.float32
            gaps.append(float(np.abs(a - b).max(initial=0.0)))
    return max(gaps)


def random_sequences(lengths: list[int]) -> list[NDArray[np.int32]]:
    """Token ids without structure; the same ones each time."""
    generator = np.random.default_rng(7)
    return [generator.integers(0, VOCABULARY, length, dtype=np.int32) for length in lengths]
