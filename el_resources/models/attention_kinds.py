"""Facts about a model's attention from its config alone, before a weight is loaded. Imports no torch.

Attention is watched in a packed forward (scoring/segment_mass.py), which needs softmax attention in every layer, full
or within a sliding window, without capped scores, sinks or position biases. This module finds the models whose config
or family shows that their attention differs; other differences are found when the model is loaded (scoring/probe.py).
"""

from collections.abc import Mapping
from typing import Any

# Layer kinds, by their names in `layer_types`, that packed attention supports.
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})
# Keys that only configs of recurrent and hybrid models have.
_HYBRID_KEYS = (
    "attn_layer_period",
    "attn_layer_indices",
    "block_types",
    "conv_L_cache",
    "conv_kernel",
    "d_conv",
    "hybrid_override_pattern",
    "layers_block_type",
    "linear_conv_kernel_dim",
    "mamba_d_state",
    "ssm_cfg",
    "state_size",
)
# Kinds of RoPE whose configs may state the length before it is scaled.
_SCALED_BY_FACTOR = ("linear", "dynamic", "yarn")
_BIASED = ("alibi", "use_alibi")
# Families whose attention differs, although their configs do not show it.
_FAMILIES = {
    "bloom": "its attention has position biases",
    "gpt_oss": "its attention has attention sinks",
    "mpt": "its attention has position biases",
    "rwkv": "it has layers that are not attention",
    "xlstm": "it has layers that are not attention",
}


def attention_is_watchable(config: Mapping[str, Any]) -> str:
    """Return why the attention of a model with this config.json cannot be watched; empty if the config allows it.

    Example:
        >>> attention_is_watchable({"model_type": "gemma2", "attn_logit_softcapping": 50.0})
        'its attention has capped scores'
    """
    found = _text_part(config)
    family = str(found.get("model_type", ""))
    if family in _FAMILIES:
        return _FAMILIES[family]
    if found.get("attn_logit_softcapping"):
        return "its attention has capped scores"
    if any(found.get(name) is True for name in _BIASED):
        return "its attention has position biases"
    strange = sorted(set(found.get("layer_types") or ()) - ATTENTION_LAYERS)
    if strange:
        return f"it has layers of the kind {', '.join(map(str, strange))}"
    if found.get("attention_chunk_size"):
        return "it has layers of the kind chunked_attention"
    hybrid = [name for name in _HYBRID_KEYS if found.get(name) is not None]
    return f"it has layers that are not attention (its config has {', '.join(hybrid)})" if hybrid else ""


def mixes_windows(config: Mapping[str, Any]) -> bool:
    """Return true if some layers of the model see further than others, as in Gemma 3."""
    found = _text_part(config)
    if not found.get("sliding_window") or found.get("use_sliding_window") is False:
        return False
    if kinds := found.get("layer_types"):
        return len(set(kinds)) > 1
    return any(found.get(name) for name in ("sliding_window_pattern", "_sliding_window_pattern", "max_window_layers"))


def stated_window(config: Mapping[str, Any]) -> int | None:
    """Return the number of tokens that a model reads at once according to its config; None if it states none."""
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, Mapping) else {}):
        for key in ("max_position_embeddings", "n_positions"):
            if isinstance(holder.get(key), int) and holder[key] >= 2:
                return int(holder[key])
    return None


def longest_window(config: Mapping[str, Any]) -> int | None:
    """Return the largest number of tokens that a config lets its model read at once; None if it states no limit.

    It is the stated window, or the original length times the factor of RoPE scaling if that is larger: linear, dynamic
    and YaRN configs state the length before scaling (Qwen) or after it (DeepSeek). LongRoPE, Llama 3 and RoPE that
    differs by kind of layer (Gemma 3) always state the length after scaling.

    Example:
        >>> yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
        >>> longest_window({"max_position_embeddings": 40960, "rope_scaling": yarn})
        131072
    """
    stated, found = stated_window(config), _text_part(config)
    rope = found.get("rope_parameters") or found.get("rope_scaling")
    if stated is None or not isinstance(rope, Mapping) or "rope_local_base_freq" in found:
        return stated
    factor = rope.get("factor")
    if rope.get("rope_type", rope.get("type")) not in _SCALED_BY_FACTOR or not isinstance(factor, (int, float)):
        return stated
    scaled = rope.get("original_max_position_embeddings") or stated
    return max(stated, int(factor * scaled))


def _text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a model's language part, completed from the config of the whole model."""
    text = config.get("text_config")
    return {**config, **(text if isinstance(text, Mapping) else {})}
