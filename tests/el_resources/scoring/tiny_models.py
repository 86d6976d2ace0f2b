"""A tiny random model of every causal LM class of transformers, made by shrinking known names of its configuration."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

VOCABULARY, POSITIONS, WINDOW, BOS = 128, 192, 16, 1

_LAYERS = (
    "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_encoder_layers num_decoder_layers"
    " num_blocks"
)
_WIDTHS = (
    "hidden_size n_embd d_model embedding_size emb_dim embedding_dim word_embed_proj_dim input_embedding_size"
    " output_embedding_size attention_hidden_size hidden_dim lru_width pronunciation_embed_dim shape_embed_dim"
    " backbone_hidden_size router_hidden_size"
)
_INNER = (
    "intermediate_size moe_intermediate_size decoder_ffn_dim encoder_ffn_dim ffn_dim dim_ff dff ffn_hidden_size d_inner"
    " shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size intermediate_size_mlp"
    " expert_ffn_hidden_size dense_intermediate_size moe_shared_expert_intermediate_size feed_forward_size n_inner"
    " dense_intermediate_size block_ff_dim"
)
_HEADS = (
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads"
    " num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads linear_num_heads"
    " linear_num_value_heads mamba_num_heads mamba_n_heads indexer_n_heads"
)
_KEY_HEADS = "num_key_value_heads num_kv_heads kv_n_heads swa_num_key_value_heads linear_num_key_heads"
_HEAD_WIDTHS = (
    "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim dim_head d_head attention_head_size swa_head_dim rotary_dim"
    " linear_head_dim linear_key_head_dim linear_value_head_dim kv_channels swa_v_head_dim d_kv global_head_dim"
)
_RANKS = "kv_lora_rank q_lora_rank o_lora_rank laurel_rank gated_norm_rank adapter_rank hc_lowrank time_step_rank"
_EXPERTS = "num_experts num_local_experts n_routed_experts moe_num_experts num_experts_per_layer"
_TOP_K = "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts experts_per_token index_topk_blocks"
_ONES = "n_group topk_group n_groups mamba_n_groups num_query_groups n_shared_experts first_k_dense_replace"
_PLACES = (
    "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions model_max_length"
    " max_source_positions original_max_position_embeddings"
)
# As many as make ties impossible: what few rectified heads find is often exactly 0, and which of equal tokens a sparse
# layer keeps depends on the length of what is read, in transformers' own forward too.
_INDEX_HEADS = "index_n_heads"
_BLOCKS = "index_block_size"
_WINDOWS = (
    "sliding_window window_size attention_window_size sliding_window_size local_attention attention_chunk_size"
    " keep_window_size local_attention_window_len index_topk chunk_size mamba_chunk_size"
)
SIZES: dict[str, int] = {
    name: value
    for names, value in (
        (_LAYERS, 2),
        (_WIDTHS, 32),
        (_INNER, 48),
        (_HEADS, 4),
        (_KEY_HEADS, 2),
        (_HEAD_WIDTHS, 8),
        (_RANKS, 8),
        (_EXPERTS, 4),
        (_TOP_K, 2),
        (_ONES, 1),
        (_PLACES, POSITIONS),
        (_WINDOWS, WINDOW),
        (_INDEX_HEADS, 32),
        (_BLOCKS, 8),
    )
    for name in names.split()
}


@functools.cache
def model_types() -> list[str]:
    """Every model type that transformers loads as a causal LM."""
    return sorted(
        model_type for model_type in CONFIG_MAPPING if CONFIG_MAPPING[model_type] in MODEL_FOR_CAUSAL_LM_MAPPING
    )


def tiny_config(model_type: str, **changes: Any) -> Any:
    """The type's default configuration, shrunk."""
    return _shrunk(CONFIG_MAPPING[model_type], {**SPECIAL.get(model_type, {}), **changes})


def tiny_model(model_type: str, **changes: Any) -> Any:
    """A model with random weights; the same ones each time."""
    torch.manual_seed(2025)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)).eval().float()
    _spread_weights(model)
    return model


def _shrunk(config_class: Any, changes: Mapping[str, Any], default: Any = None) -> Any:
    default = default or config_class()
    names, renamed = set(default.to_dict()), getattr(config_class, "attribute_map", {})
    options: dict[str, Any] = {}
    for name in names:
        if renamed.get(name, name) != name and renamed[name] in names:
            continue  # two names of one thing
        if name in SIZES:
            options[name] = SIZES[name]
        elif "vocab_size" in name:
            options[name] = VOCABULARY
    if "kv_lora_rank" in names:  # keys are made for each query head
        options["num_key_value_heads"] = SIZES["num_attention_heads"]
    for name in getattr(config_class, "sub_configs", {}):
        part = getattr(default, name, None)
        if part is not None:
            options[name] = _shrunk(type(part), SPECIAL.get(part.model_type, {}), part)
    tokens = {"bos_token_id": BOS, "eos_token_id": 2, "pad_token_id": 0}
    return config_class(**{**tokens, **options, **changes})


def _spread_weights(model: Any) -> None:
    """Draw all matrices wider than real models', so that distributions are not all close to uniform."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.2)


# Types of which no tiny model can be made by this module, and why.
NOT_TINY: dict[str, str] = {
    "blt": "reads bytes through four models of its own, whose sizes do not follow from each other",
    "dbrx": "transformers does not make the class from its own default configuration",
    "dots3_note": "the layers of its text part are listed one by one; the same class is tried as dots3_note_text",
    "gemma3n": "needs the package timm for its vision part; its text part is tried as gemma3n_text",
    "gemma4_assistant": "drafts for another model, whose keys it reads",
    "gemma4_unified_assistant": "drafts for another model, whose keys it reads",
    "musicgen": "transformers does not make the class from its own default configuration",
    "musicgen_melody": "transformers does not make the class from its own default configuration",
}
_INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
# What shrinking by name does not get right.
_FOUR_LAYERS = {"num_hidden_layers": 4}
_BOTH_KINDS = {"layer_types": ["linear_attention", "full_attention"]}
SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {**_BOTH_KINDS, "n_group": 1},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "granitemoehybrid": _BOTH_KINDS,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _BOTH_KINDS,
    "lfm3": _FOUR_LAYERS,
    "qwen3_5_text": _BOTH_KINDS,
    "qwen3_5_moe_text": _BOTH_KINDS,
    "qwen3_next": _BOTH_KINDS,
    "qwen4_exp_text": {"layer_types": ["linear_attention", "indexed_attention"], **_INDEXER},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"]},
    "mamba2": {"num_heads": 8},
    "minimax_m3_vl_text": {"layer_types": ["minimax_m3_sparse", "full_attention"], "index_n_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [12, 16]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "num_key_value_heads": 4,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
    },
    "zaya": {"num_experts_per_tok": 1},
}
