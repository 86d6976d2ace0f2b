"""The last layer on wanted rows alone, against all of it; and the models for which that would be wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from el_resources.scoring import ScoringEngine, TokenScores
from el_resources.scoring.last_layer import decoder_layers
from el_resources.scoring.probe import last_layer_runs_by_row
from el_resources.scoring.readers import PackedReader
from tests.el_resources.scoring.oracle import (
    BOS,
    DTYPES,
    TOLERANCE_NATS,
    build_model,
    largest_gap,
    plain_scores,
    random_sequences,
)

SEQUENCES = random_sequences([60, 33, 90])
POSITIONS = [np.array([59, 3, 59]), np.array([32]), np.array([11, 88])]  # in any order, and one twice
BY_ROW = [
    "llama-grouped-untied",
    "llama-tied",
    "qwen2-biased-tied",
    "mistral-sliding-window",
    "granite-divided-logits",
    "cohere-multiplied-logits",
]


def expected(model: Any) -> list[TokenScores]:
    """Return the plain model's scores at the wanted positions."""
    scores = []
    for ids, wanted in zip(SEQUENCES, POSITIONS, strict=True):
        whole = plain_scores(model, ids)
        scores.append(TokenScores(entropy_nats=whole.entropy_nats[wanted], nll_nats=whole.nll_nats[wanted]))
    return scores


@contextmanager
def rows_of_mlps(model: Any) -> Iterator[list[int]]:
    """The number of rows that each call of an MLP gets, layer by layer."""
    rows: list[int] = []
    hooks = [
        layer.mlp.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
        for layer in decoder_layers(model)
    ]
    yield rows
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("architecture", BY_ROW)
def test_few_rows_go_through_the_last_layer_alone_and_score_the_same(architecture: str) -> None:
    model = build_model(architecture)
    engine = ScoringEngine(model, bos_id=BOS, max_batch_tokens=400)
    with rows_of_mlps(model) as rows:
        found = engine.score(SEQUENCES, POSITIONS)
    # Inputs up to the last wanted position: 60 + 33 + 89. The hook of the test runs before that which spreads the rows.
    assert rows == [182, 5]
    assert largest_gap(found, expected(model)) <= TOLERANCE_NATS[torch.float32]


def test_many_rows_go_through_all_of_it() -> None:
    model = build_model("llama-tied")
    engine = ScoringEngine(model, bos_id=BOS, max_batch_tokens=400)
    with rows_of_mlps(model) as rows:
        engine.score(SEQUENCES)
    assert rows == [183, 183]


class Mixing(nn.Module):
    """An MLP that sees the inputs before, as token shifts do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.inner(hidden + hidden.cumsum(dim=1))
        return output


def test_a_last_layer_that_mixes_inputs_is_run_whole() -> None:
    model = build_model("llama-tied")
    assert last_layer_runs_by_row(model)
    layer = decoder_layers(model)[-1]
    layer.mlp = Mixing(layer.mlp)
    assert not last_layer_runs_by_row(model)


def test_parts_of_other_names_are_left_alone() -> None:
    assert not last_layer_runs_by_row(build_model("gpt2-learned-positions"))


def test_a_mixture_of_experts_scores_as_the_plain_model_does() -> None:
    config = transformers.Qwen2MoeConfig(
        vocab_size=211,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=BOS,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    found = ScoringEngine(model, bos_id=BOS).score(SEQUENCES, POSITIONS)
    assert largest_gap(found, expected(model)) <= TOLERANCE_NATS[torch.float32]


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = build_model("llama-tied")
    engine = ScoringEngine(model, bos_id=BOS)

    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    hook = decoder_layers(model)[-1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        engine.score(SEQUENCES, POSITIONS)
    hook.remove()
    assert not decoder_layers(model)[-1].mlp._forward_hooks
    assert largest_gap(engine.score(SEQUENCES, POSITIONS), expected(model)) <= TOLERANCE_NATS[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_few_and_many_rows_take_turns_in_a_compiled_model(dtype: torch.dtype) -> None:
    model = build_model("llama-grouped-untied").to("cuda", dtype)
    engine = ScoringEngine(model, bos_id=BOS, max_batch_tokens=400, compiled=True)
    whole = engine.score(SEQUENCES)
    few = engine.score(SEQUENCES, POSITIONS)
    assert isinstance(engine._reader, PackedReader)
    assert decoder_layers(model)[-1]._compiled_call_impl is not None
    assert largest_gap(few, expected(model)) <= TOLERANCE_NATS[dtype]
    assert largest_gap(engine.score(SEQUENCES), whole) == 0.0
