"""Tiny models with mixed attention (GEMMA_3) or with attention that cannot be watched (GEMMA_2), and their pool."""

import transformers

from tests.conftest import Workspace, library_samples

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 400,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "initializer_range": 0.2,
}
GEMMA_2 = transformers.Gemma2Config(**SHAPE, num_hidden_layers=2, head_dim=16)
GEMMA_3 = transformers.Gemma3TextConfig(
    **SHAPE,
    num_hidden_layers=3,
    head_dim=16,
    sliding_window=64,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)


def with_pool(workspace: Workspace) -> Workspace:
    """Return the workspace with five registered samples, in the shard `a.jsonl`."""
    workspace.write_instructions("a.jsonl", library_samples(5))
    workspace.register_instructions()
    return workspace
