"""A config's statements on a model's attention, against the engine's own judgement of a tiny model of that config."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from el_resources.models.attention_kinds import attention_is_watchable, longest_window, mixes_windows
from tests.el_resources.scoring.attention_models import SHAPE, VOCABULARY, build_model

ROOT = Path(__file__).parents[3]
WATCHED = {
    "llama": transformers.LlamaConfig(**SHAPE),
    "mistral": transformers.MistralConfig(**SHAPE, sliding_window=24),
    "gemma3": transformers.Gemma3TextConfig(**{**SHAPE, "num_hidden_layers": 6}, head_dim=8, sliding_window=24),
    "qwen3": transformers.Qwen3Config(**SHAPE, head_dim=8),
}
NOT_WATCHED = {
    "gemma2": (transformers.Gemma2Config(**SHAPE, head_dim=8), "its attention has capped scores"),
    "gpt_oss": (
        transformers.GptOssConfig(**SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
        "its attention has attention sinks",
    ),
    "mamba": (
        transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4),
        "layers that are not attention",
    ),
    "lfm2": (transformers.Lfm2Config(**SHAPE, full_attn_idxs=[1]), "layers"),
    "bloom": (
        transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2),
        "its attention has position biases",
    ),
}


def engine_says(config: Any) -> str:
    from el_resources.scoring.probe import why_not_packed

    return why_not_packed(build_model(config))


@pytest.mark.parametrize("name", WATCHED)
def test_a_config_whose_attention_is_watched(name: str) -> None:
    assert attention_is_watchable(WATCHED[name].to_dict()) == engine_says(WATCHED[name]) == ""


@pytest.mark.parametrize("name", NOT_WATCHED)
def test_a_config_whose_attention_is_not_watched(name: str) -> None:
    config, reason = NOT_WATCHED[name]
    assert reason in attention_is_watchable(config.to_dict())
    assert engine_says(config)


@pytest.mark.parametrize("name", ["qwen3_next", "jamba", "falcon_h1", "zamba2", "llama4_text", "rwkv", "mpt"])
def test_configs_of_hybrid_and_recurrent_families(name: str) -> None:
    assert attention_is_watchable(transformers.CONFIG_MAPPING[name]().to_dict())


def test_the_language_part_of_a_config_counts() -> None:
    assert attention_is_watchable({"text_config": {"attn_logit_softcapping": 50.0}})


def test_windows_are_mixed_in_gemma_and_not_in_mistral() -> None:
    assert {name for name, config in WATCHED.items() if mixes_windows(config.to_dict())} == {"gemma3"}
    assert mixes_windows({"model_type": "gemma3_text", "sliding_window": 512, "sliding_window_pattern": 6})
    assert not mixes_windows({"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28})


def test_no_torch_is_imported() -> None:
    code = "import sys; import el_resources.models.attention_kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 77}}, 77),
        ({"model_type": "mamba"}, None),
        ({"max_position_embeddings": -1}, None),
        # Vicuna 16k, Qwen 2.5 and Qwen 3 with YaRN, DeepSeek V3: the length before scaling, or the one after it.
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16_384),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096),
        ({"max_position_embeddings": 32_768, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 131_072),
        (
            {
                "max_position_embeddings": 40_960,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32_768,
                },
            },
            131_072,
        ),
        (
            {
                "max_position_embeddings": 163_840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163_840,
        ),
        # Llama 3.1, Phi 3, Gemma 3 and Qwen 2 VL: the length after scaling.
        (
            {
                "max_position_embeddings": 131_072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131_072,
        ),
        ({"max_position_embeddings": 131_072, "rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, 131_072),
        (
            {
                "max_position_embeddings": 131_072,
                "rope_local_base_freq": 10_000,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            131_072,
        ),
        (
            {
                "max_position_embeddings": 131_072,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            131_072,
        ),
        ({"max_position_embeddings": 32_768, "rope_scaling": {"type": "mrope", "mrope_section": [16]}}, 32_768),
    ],
)
def test_the_longest_window_of_the_configs_that_there_are(config: dict[str, Any], longest: int | None) -> None:
    assert longest_window(config) == longest
