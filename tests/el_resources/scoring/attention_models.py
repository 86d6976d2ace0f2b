"""Small models with random weights whose attention is looked at, and layouts of sequences, segments and responses."""

import copy
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

BOS = 1
VOCABULARY = 97
WINDOW = 160

Span = tuple[int, int]
# A sequence's tokens, its segments and its response.
LAYOUTS: dict[str, tuple[int, list[Span], Span]] = {
    "one segment": (60, [(0, 40)], (50, 60)),
    "one segment up to the response": (60, [(0, 50)], (50, 60)),
    "many segments, the last one short": (120, [(start, min(start + 16, 90)) for start in range(0, 90, 16)], (97, 120)),
    "segments with gaps, in any order": (80, [(33, 34), (3, 9), (12, 30), (60, 61)], (61, 75)),
    "no segments": (40, [], (20, 40)),
    "a response without a context": (12, [], (0, 12)),
    "one response token": (WINDOW - 1, [(0, 70), (70, 140)], (WINDOW - 2, WINDOW - 1)),
    "tokens behind the response": (90, [(0, 20), (20, 33)], (40, 45)),
}


def random_config(seed: int) -> Any:
    """A small Llama or Qwen2 configuration: grouped query heads, tied or untied."""
    generator = np.random.default_rng(seed)
    key_heads, sharing, width = (int(generator.choice(choices)) for choices in ([1, 2, 3], [2, 3, 4], [4, 8, 10]))
    config_class = [transformers.LlamaConfig, transformers.Qwen2Config][seed % 2]
    return config_class(
        vocab_size=VOCABULARY,
        hidden_size=key_heads * sharing * width,
        intermediate_size=24,
        num_hidden_layers=int(generator.integers(1, 4)),
        num_attention_heads=key_heads * sharing,
        num_key_value_heads=key_heads,
        tie_word_embeddings=bool(generator.integers(2)),
        **_SPECIAL,
    )


_SPECIAL = {
    "max_position_embeddings": WINDOW,
    "bos_token_id": BOS,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.3,  # wider than real models' 0.02, so that attention is far from even
}
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    **_SPECIAL,
}
_GPT2_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}
_SLIDING = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
CONFIGS: dict[str, Any] = {
    **{f"random-{seed}": random_config(seed) for seed in range(4)},
    "qwen2-with-a-sliding-layer": transformers.Qwen2Config(**SHAPE, **_SLIDING),
    "mistral-sliding": transformers.MistralConfig(**SHAPE, sliding_window=24),
    "gemma3-mixed-windows": transformers.Gemma3TextConfig(
        **{**SHAPE, "num_hidden_layers": 4},
        head_dim=8,
        sliding_window=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    ),
    "granite-scaled-scores": transformers.GraniteConfig(**SHAPE, attention_multiplier=0.05),
    "gpt2-learned-positions": transformers.GPT2Config(**_GPT2_SHAPE, bos_token_id=BOS, initializer_range=0.3),
}


def build_model(config: Any, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A model with random weights; the same ones each time."""
    torch.manual_seed(2025)
    return transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().to(device, dtype)


def random_sequence(length: int) -> NDArray[np.int32]:
    return np.random.default_rng(length).integers(0, VOCABULARY, length, dtype=np.int32)
