"""Batches that share inputs, a GPU's memory that is full, and models that are padded instead."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from el_resources.scoring import ScoringEngine, input_lengths
from el_resources.scoring.attention import Layout, Piece
from el_resources.scoring.memory import tokens_that_fit
from el_resources.scoring.probe import why_not_packed
from el_resources.scoring.readers import PackedReader
from tests.el_resources.scoring.oracle import (
    ARCHITECTURES,
    BOS,
    DTYPES,
    LENGTHS,
    TOLERANCE_NATS,
    build_model,
    largest_gap,
    plain_scores,
    random_sequences,
)

# --- what sequences share


def families() -> tuple[list[NDArray[np.int32]], list[NDArray[np.int64]], list[int]]:
    """Sequences of three families and two that are alone, with wanted positions after what they share."""
    beginnings = random_sequences([40, 7, 25])
    ends = random_sequences([30, 12, 1, 44, 20, 50, 3, 9, 16])
    pairs = [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6), (2, 7), (2, 8)]
    sequences = [np.concatenate([beginnings[a], ends[b]]) for a, b in pairs]
    common = [len(beginnings[a]) for a, _ in pairs]
    common[-1] = 0  # begins like others, and does not say so
    positions = [np.array([n, len(ids) - 1]) for n, ids in zip([c or 3 for c in common], sequences, strict=True)]
    return sequences, positions, common


@pytest.mark.parametrize("budget", [60, 100, 400])
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma2-capped-logits"])
def test_what_is_shared_is_read_once_and_changes_nothing(architecture: str, budget: int) -> None:
    engine = ScoringEngine(build_model(architecture), bos_id=BOS, max_batch_tokens=budget)
    sequences, positions, common = families()
    seen: list[int] = []
    alone = engine.score(sequences, positions)
    spent = engine.tokens
    assert largest_gap(engine.score(sequences, positions, seen.append, common), alone) <= TOLERANCE_NATS[torch.float32]
    assert sum(seen) == input_lengths(sequences, positions).sum() == spent
    if budget == 400:
        assert engine.tokens - spent == spent - 2 * 40 - 7 - 2 * 25


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ["llama-grouped-untied", "mistral-sliding-window"])
def test_what_is_shared_on_a_gpu_changes_nothing(architecture: str, dtype: torch.dtype) -> None:
    engine = ScoringEngine(build_model(architecture).to("cuda", dtype), bos_id=BOS, max_batch_tokens=400)
    sequences, positions, common = families()
    alone = engine.score(sequences, positions)
    found = engine.score(sequences, positions, n_common=common)
    assert largest_gap(found, alone) <= TOLERANCE_NATS[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("length", [16_384, 17_001])
def test_a_long_sequence_alone_scores_as_the_plain_model_does(length: int) -> None:
    model = build_model("llama-grouped-untied", hidden_size=64, max_position_embeddings=20_000)
    model = model.to("cuda", torch.bfloat16)
    sequences = random_sequences([length])
    found = ScoringEngine(model, bos_id=BOS).score(sequences)
    assert largest_gap(found, [plain_scores(model, sequences[0])]) <= TOLERANCE_NATS[torch.bfloat16]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_layers_score_as_plain_ones_do(dtype: torch.dtype) -> None:
    model = build_model("llama-grouped-untied").to("cuda", dtype)
    sequences = random_sequences(LENGTHS)
    expected = [plain_scores(model, sequence) for sequence in sequences]
    engine = ScoringEngine(model, bos_id=BOS, max_batch_tokens=200, compiled=True)
    assert largest_gap(engine.score(sequences), expected) <= TOLERANCE_NATS[dtype]


# --- memory


def test_a_batch_that_does_not_fit_is_halved_and_the_smaller_size_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScoringEngine(build_model("llama-tied"), bos_id=BOS, max_batch_tokens=400)
    sequences = random_sequences(LENGTHS)
    expected = engine.score(sequences)
    sizes: list[int] = []
    read = PackedReader.read

    def full_above_120(self: PackedReader, requests: Any, batch: Any) -> Any:
        sizes.append(sum(family.n_inputs for family in batch))
        if sizes[-1] > 120:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(self, requests, batch)

    monkeypatch.setattr(PackedReader, "read", full_above_120)
    assert largest_gap(engine.score(sequences), expected) <= TOLERANCE_NATS[torch.float32]
    assert 60 < engine.max_batch_tokens <= 120 < sizes[0]
    sizes.clear()
    engine.score(sequences)
    assert max(sizes) <= 120, "what was learnt is kept"


def test_a_sequence_that_does_not_fit_alone_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = ScoringEngine(build_model("llama-tied"), bos_id=BOS)
    monkeypatch.setattr(PackedReader, "read", full)
    with pytest.raises(ValueError, match=r"a sequence of 50 inputs does not fit the GPU's memory; use"):
        engine.score(random_sequences([50]))


@pytest.mark.gpu
def test_a_gpus_batch_follows_its_free_memory() -> None:
    engine = ScoringEngine(build_model("llama-tied").to("cuda"), bos_id=BOS)
    assert engine.max_batch_tokens == 32_768
    assert tokens_that_fit(engine.device, lambda n: torch.empty(n, 2**20, device="cuda"), at_most=10**9) < 10**6


# --- models that are not packed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "gemma2-capped-logits"])
def test_models_are_read_packed(architecture: str, dtype: torch.dtype) -> None:
    assert why_not_packed(build_model(architecture).to(dtype)) == ""


# In bfloat16 rounding alone may move a row by more than the smaller shares do.
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("share", [1.0, 0.03])
def test_a_model_that_mixes_tokens_elsewhere_is_padded(share: float, dtype: torch.dtype) -> None:
    model = build_model("llama-tied").to(dtype)
    for layer in model.model.layers:  # every token also reads the one before it
        layer.mlp.register_forward_pre_hook(lambda _, inputs: (inputs[0] + share * pad(inputs[0], (0, 0, 1, -1)),))
    with pytest.warns(UserWarning, match=r"LlamaForCausalLM is read in padded batches, .* of each sequence alone"):
        engine = ScoringEngine(model, bos_id=BOS)
    with pytest.raises(ValueError, match="the attention of LlamaForCausalLM cannot be watched"):
        engine.segment_attention([np.array([5, 6, 7])], [[]], [(1, 3)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_mask_that_lets_a_neighbour_in_is_seen(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Each piece sees the input before it, in a model whose attention adds so little that bfloat16 hides it."""
    model = build_model("llama-tied").to(dtype)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data *= 0.02
    assert why_not_packed(model) == ""
    of = Layout.of

    def leaking(pieces: Sequence[Piece], *options: Any) -> Layout:
        return of(
            [replace(p, shared_start=p.start - 1, shared_end=p.start) if p.start else p for p in pieces], *options
        )

    monkeypatch.setattr(Layout, "of", leaking)
    assert "not those of each sequence alone" in why_not_packed(model)
