"""Every causal LM class of transformers, tiny and random: scored as a plain forward scores it, or refused in words."""

import warnings
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from el_resources.scoring import ScoringEngine
from el_resources.scoring.probe import why_not_packed
from tests.el_resources.scoring.architecture_table import PAGE, page, row_not_tried, row_of
from tests.el_resources.scoring.sweep import outcome_of, outcome_of_type
from tests.el_resources.scoring.tiny_models import BOS, NOT_TINY, SIZES, WINDOW, model_types, tiny_model

TRIED = [model_type for model_type in model_types() if model_type not in NOT_TINY]


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Say nothing of kernels that are missing and of models that are padded; the table tells."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.logging.set_verbosity(before)


@pytest.mark.parametrize("model_type", TRIED)
def test_an_architecture_is_scored_as_itself_or_refused_in_words(model_type: str) -> None:
    outcome = outcome_of_type(model_type)
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {outcome.name} |")]
    types = [line for line in rows if model_type in line.split("|")[2].replace(" ", "").split(",")]
    assert types, f"{PAGE} has no row for {model_type}; run python -m tests.el_resources.scoring.architecture_table"
    assert types[0] == row_of(outcome, types[0].split("|")[2].strip().split(", ")), "the table says something else"


def test_every_type_is_tried_or_listed_with_a_reason() -> None:
    assert len(NOT_TINY) == 8, "a type that cannot be tried is a decision: name it and its reason"
    assert set(TRIED) | set(NOT_TINY) == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    lines = PAGE.read_text().splitlines()
    assert all(row_not_tried(model_type) in lines for model_type in NOT_TINY)


# --- what a configuration can switch on


SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("model_type", "changes", "read"),
    [
        # The window is in the mask alone, within what is tried and far beyond it.
        ("phimoe", {"sliding_window": WINDOW}, "padded"),
        ("phimoe", {"sliding_window": 4096}, "padded"),
        ("qwen2", SLIDING, "packed"),
        ("qwen2_moe", SLIDING, "padded"),
        ("qwen2_moe", {**SLIDING, "sliding_window": 4096}, "padded"),
        ("qwen3_moe", SLIDING, "packed"),
        ("mistral", {"sliding_window": 4096}, "packed"),
        ("gemma3_text", {"sliding_window": 4096}, "packed"),
        ("llama4_text", {"attention_chunk_size": 4096}, "padded"),
        ("gemma", {"use_bidirectional_attention": True}, "refused"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "refused"),
        ("gemma3_text", {"use_bidirectional_attention": True, "sliding_window": 4096}, "refused"),
        ("bert", {"is_decoder": True}, "refused"),  # causal, with a head that is more than a product
        ("deepseek_v32", {"index_topk": 8}, "padded"),
        ("deepseek_v32", {"index_topk": 4096}, "padded"),
    ],
)
def test_what_a_configuration_switches_on_is_seen(model_type: str, changes: dict[str, Any], read: str) -> None:
    outcome = outcome_of(tiny_model(model_type, **changes))
    assert outcome.read == read, outcome.why


@pytest.mark.parametrize(
    "model_type", ["falcon", "gemma3_text", "gpt_neox", "granitemoe", "mamba", "mixtral", "olmo2", "phi3", "qwen3_moe"]
)
def test_half_precision_is_read_as_float32_is(model_type: str) -> None:
    model = tiny_model(model_type)
    assert why_not_packed(model.bfloat16()) == why_not_packed(model.float())


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("cpmant", "CpmAntForCausalLM cannot be scored: it is not causal"),
        ("xlm", "XLMWithLMHeadModel cannot be scored: it is not causal"),
        ("bert", "BertLMHeadModel cannot be scored: it is not causal"),
        ("whisper", "WhisperForCausalLM is the decoder of an encoder-decoder model"),
        ("bart", "BartForCausalLM is the decoder of an encoder-decoder model"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_scores_would_be_wrong_of_is_refused_by_name(
    model_type: str, message: str, dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match=f"{message}.*use a decoder-only causal language model"):
        ScoringEngine(tiny_model(model_type).to(dtype), bos_id=BOS, window=160)


def test_few_index_heads_make_ties_that_transformers_too_breaks_by_length() -> None:
    """The plain forward itself scores a token differently once more is read after it, which no causal model does."""
    import numpy as np

    from tests.el_resources.scoring.oracle import plain_scores

    def moves(n_heads: int) -> float:
        model = tiny_model("deepseek_v32", index_n_heads=n_heads)
        sequence = np.random.default_rng(3).integers(3, 120, 120, dtype=np.int32)
        whole, cut = plain_scores(model, sequence), plain_scores(model, sequence[:60])
        return float(np.abs(whole.entropy_nats[:60] - cut.entropy_nats).max())

    assert moves(2) > 1e-3
    assert moves(SIZES["index_n_heads"]) < 1e-4


@pytest.mark.services
def test_the_table_is_what_is_found() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
