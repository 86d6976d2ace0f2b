"""The engine against plain transformers, one sequence at a time, with log-softmax over full logits in float64."""

import inspect
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.models.tokenization import ModelTokenizer
from el_resources.scoring import ScoringEngine, TokenScores, input_lengths
from tests.el_resources.scoring.oracle import (
    ARCHITECTURES,
    BOS,
    DTYPES,
    LENGTHS,
    TEXT_TOLERANCE_NATS,
    TOLERANCE_NATS,
    VOCABULARY,
    WINDOW,
    build_model,
    largest_gap,
    plain_scores,
    random_sequences,
)


@pytest.fixture(scope="module")
def reference() -> ScoringEngine:
    """The long reference model in fp32 on the CPU."""
    return ScoringEngine.from_folder(REFERENCE_FOLDER / "long", bos_id=0, device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[NDArray[np.int32]]:
    """Real text of several lengths, as the reference model's tokens."""
    source = inspect.getsource(json.decoder) + inspect.getsource(inspect)
    ids = ModelTokenizer.from_folder(REFERENCE_FOLDER / "long").encode(source)
    bounds = np.cumsum([0, 1, 200, 96, 400, 2, 150])
    return [ids[start:end] for start, end in pairwise(bounds)]


# --- against plain transformers


def gap_to_plain_model(model: Any) -> float:
    """Nats between engine and plain model on random sequences, in small batches and chunks."""
    sequences = random_sequences(LENGTHS)
    found = ScoringEngine(model, bos_id=BOS, max_batch_tokens=200, head_rows=7).score(sequences)
    return largest_gap(found, [plain_scores(model, sequence) for sequence in sequences])


def gap_on_text(texts: list[NDArray[np.int32]], dtype: torch.dtype, device: str) -> float:
    """Nats between engine and plain model on text, with the reference model's weights."""
    folder, name = REFERENCE_FOLDER / "long", str(dtype).removeprefix("torch.")
    engine = ScoringEngine.from_folder(folder, bos_id=0, dtype=name, device=device)
    assert (engine.dtype, engine.device.type) == (name, device)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    return largest_gap(engine.score(texts), [plain_scores(model, text, bos_id=0) for text in texts])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_those_of_the_plain_model(architecture: str, dtype: torch.dtype) -> None:
    assert gap_to_plain_model(build_model(architecture).to(dtype)) <= TOLERANCE_NATS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_text_are_those_of_the_plain_model(texts: list[NDArray[np.int32]], dtype: torch.dtype) -> None:
    assert gap_on_text(texts, dtype, "cpu") <= TEXT_TOLERANCE_NATS[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_on_a_gpu_are_those_of_the_plain_model(architecture: str, dtype: torch.dtype) -> None:
    assert gap_to_plain_model(build_model(architecture).to("cuda", dtype)) <= TOLERANCE_NATS[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_text_on_a_gpu_are_those_of_the_plain_model(
    texts: list[NDArray[np.int32]], dtype: torch.dtype
) -> None:
    assert gap_on_text(texts, dtype, "cuda") <= TEXT_TOLERANCE_NATS[dtype]


@pytest.mark.gpu
def test_a_gpu_and_a_cpu_agree(reference: ScoringEngine, texts: list[NDArray[np.int32]]) -> None:
    engine = ScoringEngine.from_folder(REFERENCE_FOLDER / "long", bos_id=0, dtype="float32")
    assert engine.device.type == "cuda"
    assert largest_gap(engine.score(texts), reference.score(texts)) <= TEXT_TOLERANCE_NATS[torch.float32]


def test_dtype_auto_is_fp32_on_a_cpu(reference: ScoringEngine) -> None:
    assert reference.dtype == "float32"  # the checkpoint is bf16


@pytest.mark.gpu
def test_dtype_auto_is_the_checkpoints_on_a_gpu() -> None:
    assert ScoringEngine.from_folder(REFERENCE_FOLDER / "long", bos_id=0).dtype == "bfloat16"


@pytest.mark.filterwarnings("ignore:.*is read in padded batches")
def test_a_recurrent_model_needs_only_a_window() -> None:
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = transformers.MambaForCausalLM(config)
    with pytest.raises(ValueError, match=r"states no max_position_embeddings; give the window explicitly"):
        ScoringEngine(model, bos_id=BOS)
    sequences = random_sequences([5, 30])
    found = ScoringEngine(model, bos_id=BOS, window=64).score(sequences)
    assert largest_gap(found, [plain_scores(model, sequence) for sequence in sequences]) <= 1e-4


# --- models whose answers are known


def test_a_model_without_a_clue_has_the_entropy_of_its_vocabulary() -> None:
    model = build_model("llama-grouped-untied")
    torch.nn.init.zeros_(model.lm_head.weight)  # every logit is 0
    scores = ScoringEngine(model, bos_id=BOS).score(random_sequences([20]))[0]
    np.testing.assert_allclose(scores.entropy_nats, math.log(VOCABULARY), rtol=1e-6)
    np.testing.assert_allclose(scores.nll_nats, math.log(VOCABULARY), rtol=1e-6)


def successor_model() -> Any:
    """A model that is sure that token i is followed by i + 1: logit 200 there, 0 elsewhere.

    Attention and MLP add nothing, so the last hidden state is the token's own: one-hot over 16 entries, which the norm
    (weight 1) scales to length 4; the head maps entry i to 50 × 4 at token i + 1.
    """
    shape = {"vocab_size": 16, "hidden_size": 16, "tie_word_embeddings": False}
    model = build_model("llama-grouped-untied", **shape)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(16))
        model.lm_head.weight.copy_(50 * torch.eye(16).roll(1, dims=0))
    return model


def test_each_score_belongs_to_the_token_that_is_predicted() -> None:
    engine = ScoringEngine(successor_model(), bos_id=4)
    as_predicted, one_wrong = engine.score([np.array([5, 6, 7, 8]), np.array([5, 6, 9, 10])])
    np.testing.assert_allclose(as_predicted.entropy_nats, [0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(as_predicted.nll_nats, [0, 0, 0, 0], atol=1e-3)
    np.testing.assert_allclose(one_wrong.nll_nats, [0, 0, 200, 0], atol=1e-2)  # 7 was expected in place of 9


def test_reference_model_reads_text_better_than_chance(
    reference: ScoringEngine, texts: list[NDArray[np.int32]]
) -> None:
    nll = np.concatenate([scores.nll_nats for scores in reference.score(texts)])
    assert nll.mean() < 4.0  # ln 8192 = 9.0


# --- what is run, and what is not


def test_wanted_positions_come_back_in_their_order(reference: ScoringEngine, texts: list[NDArray[np.int32]]) -> None:
    chosen = [[0], [150, 3, 3], [], [399, 0], [], list(range(9))]
    wanted = [np.array(one, dtype=np.int64) for one in chosen]
    everything = reference.score(texts)
    expected = [
        TokenScores(entropy_nats=scores.entropy_nats[one], nll_nats=scores.nll_nats[one])
        for scores, one in zip(everything, wanted, strict=True)
    ]
    assert largest_gap(reference.score(texts, wanted), expected) <= 1e-4


def test_a_sequence_is_read_up_to_its_last_wanted_position() -> None:
    engine = ScoringEngine(build_model("llama-tied"), bos_id=BOS)
    sequences = random_sequences([50, 30, 40])
    wanted = [np.array([9, 4]), np.array([], dtype=np.int64), np.array([0])]
    # Token 9 is predicted from BOS and 9 tokens, token 0 from BOS alone; the second sequence is not run.
    assert input_lengths(sequences, wanted).tolist() == [10, 0, 1]
    assert input_lengths(sequences).tolist() == [50, 30, 40]
    engine.score(sequences, wanted)
    assert (engine.forwards, engine.tokens) == (2, 11)
    engine.score(sequences)
    assert (engine.forwards, engine.tokens) == (5, 131)
    assert engine.seconds > 0


def test_nothing_to_score_runs_nothing() -> None:
    engine = ScoringEngine(build_model("llama-tied"), bos_id=BOS)
    empty = np.array([], dtype=np.int32)
    assert engine.score([]) == []
    assert [len(scores.entropy_nats) for scores in engine.score([empty, np.array([5])], [empty, empty])] == [0, 0]
    assert [len(scores.nll_nats) for scores in engine.score([empty])] == [0]
    assert (engine.forwards, engine.tokens) == (0, 0)


def test_progress_is_given_the_tokens_of_each_batch() -> None:
    engine = ScoringEngine(build_model("llama-tied"), bos_id=BOS, max_batch_tokens=60)
    for _ in range(2):
        seen: list[int] = []
        engine.score(random_sequences([20, 50, 30]), on_progress=seen.append)
        assert seen == [50, 50]  # 50 alone; 30 and 20


def test_logits_are_never_held_for_more_rows_than_allowed() -> None:
    model = build_model("llama-grouped-untied")
    engine = ScoringEngine(model, bos_id=BOS, head_rows=8)
    rows: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, logits: rows.append(logits.shape[0]))
    engine.score(random_sequences([50]), [np.arange(30, 50)])
    assert rows == [8, 8, 4]


def test_attention_runs_without_a_mask(reference: ScoringEngine, texts: list[NDArray[np.int32]]) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        reference.score(texts)
    kernels = {event.key for event in profile.key_averages() if "scaled_dot_product" in event.key}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in kernels
    assert "aten::_scaled_dot_product_attention_math" not in kernels


# --- repetition


def test_the_same_call_gives_the_same_bytes(reference: ScoringEngine, texts: list[NDArray[np.int32]]) -> None:
    first, second = reference.score(texts), reference.score(texts)
    for one, other in zip(first, second, strict=True):
        assert one.entropy_nats.tobytes() == other.entropy_nats.tobytes()
        assert one.nll_nats.tobytes() == other.nll_nats.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu_the_same_call_gives_the_same_bytes_and_company_moves_scores_by_rounding_only(
    texts: list[NDArray[np.int32]], dtype: str, compiled: bool
) -> None:
    engine = ScoringEngine.from_folder(
        REFERENCE_FOLDER / "long", bos_id=0, dtype=dtype, device="cuda", compiled=compiled
    )
    first, second = engine.score(texts), engine.score(texts)
    assert largest_gap(first, second) == 0
    alone = [engine.score([text])[0] for text in texts]
    assert largest_gap(first, alone) <= TEXT_TOLERANCE_NATS[getattr(torch, dtype)]


def test_company_in_a_batch_moves_scores_by_rounding_only(
    reference: ScoringEngine, texts: list[NDArray[np.int32]]
) -> None:
    alone = [reference.score([text])[0] for text in texts]
    assert largest_gap(reference.score(texts), alone) <= 1e-4


# --- input that is refused


@pytest.mark.parametrize(
    ("sequences", "positions", "message"),
    [
        ([[5], [5] * WINDOW], None, r"sequence 1 has 96 tokens, with BOS 97, and the model's window is 96"),
        ([[5], [7, VOCABULARY]], None, r"sequence 1: token id 211 is outside the model's vocabulary of 211"),
        ([[-1]], None, r"sequence 0: token id -1 is outside the model's vocabulary of 211"),
        ([[5, 6]], [[2]], r"position 2 of sequence 0 does not exist: the sequence has 2 tokens"),
        ([[5, 6]], [[-1]], r"position -1 of sequence 0 does not exist"),
        ([[5], [6]], [[0]], r"1 lists of positions for 2 sequences"),
        ([[0.5]], None, r"are integers; got an array of float64"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(
    sequences: list[list[int]], positions: list[list[int]] | None, message: str
) -> None:
    engine = ScoringEngine(build_model("llama-tied"), bos_id=BOS)
    wanted = None if positions is None else [np.array(chosen) for chosen in positions]
    with pytest.raises(ValueError, match=message):
        engine.score([np.array(sequence) for sequence in sequences], wanted)
    assert engine.forwards == 0


def test_bad_settings_are_refused() -> None:
    model = build_model("llama-tied")
    with pytest.raises(ValueError, match=r"bos_id: token id 211 is outside"):
        ScoringEngine(model, bos_id=VOCABULARY)
    with pytest.raises(ValueError, match=r"head_rows is 0; give at least 1"):
        ScoringEngine(model, bos_id=BOS, head_rows=0)
    with pytest.raises(ValueError, match=r"window is 0; give at least 1"):
        ScoringEngine(model, bos_id=BOS, window=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ValueError, match=r"device 'cuda' is not there"):
        ScoringEngine.from_folder(REFERENCE_FOLDER / "long", bos_id=0, device="cuda")
