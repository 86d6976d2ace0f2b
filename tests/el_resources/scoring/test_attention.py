"""Segment attention against eager attention with its full weights, one sequence at a time, over uncut sequences.

Tolerances are several times the largest gap seen; for mass in fp32, where only the order of sums differs, that is 1e-7.
With bf16 weights eager attention is itself rounded to bf16, and activations move with the kernel that made them: 0.007
of the mass and 0.2 nats with random weights, 1e-4 and 0.1 nats on text. The watcher alone is held to float64,
in test_segment_mass.py.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.models.tokenization import ModelTokenizer
from el_resources.scoring import ScoringEngine, SegmentScores, TokenScores
from el_resources.scoring.segment_mass import Response
from tests.el_resources.scoring.attention_models import (
    BOS,
    CONFIGS,
    LAYOUTS,
    SHAPE,
    VOCABULARY,
    WINDOW,
    Span,
    build_model,
    random_sequence,
)

DTYPES = [torch.float32, torch.bfloat16]
MASS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
NLL_TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.6}
TEXT_MASS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3}
TEXT_NLL_TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.3}


@torch.inference_mode()
def eager_scores(
    model: Any, token_ids: NDArray[np.int32], segments: Sequence[Span], response: Span, bos_id: int = BOS
) -> SegmentScores:
    """The naive way: all attention weights and all logits of the whole sequence, from a copy with eager attention."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    start, end = response
    inputs = torch.tensor([[bos_id, *token_ids.tolist()]], device=model.device)
    output = model(input_ids=inputs, output_attentions=True)
    weights = torch.stack([layer[0] for layer in output.attentions]).double()  # layer, head, row, input
    layers = weights[:, :, start:end].mean(dim=(1, 2))  # layer, input; the row that predicts token t is row t
    seen = weights[:, :, end - 1].amax(dim=1) > 0  # layer, input: whether the last row sees it; masks give exactly 0
    masses = [layers[:, 1 + first : 1 + last].sum(dim=1) for first, last in segments]  # token t is input t + 1
    reaching = [seen[:, 1 + first] if seen[:, 1 + first].any() else _widest(seen) for first, _ in segments]
    on_segments = [float(mass[layer].mean()) for mass, layer in zip(masses, reaching, strict=True)]
    log_p = torch.log_softmax(output.logits[0, start:end].double(), dim=-1)
    nll = -log_p.gather(-1, inputs[0, 1 + start : 1 + end, None])[:, 0]
    return SegmentScores(
        segment_attention=np.array(on_segments, dtype=np.float32),
        rest_attention=float(sum((layers.sum(dim=1) - sum(masses)).tolist())) / len(layers),
        nll_nats=nll.float().cpu().numpy(),
        segment_layers=np.array([int(layer.sum()) for layer in reaching], dtype=np.int32),
        layer_windows=(),
        layer_sum_error=0.0,
    )


def _widest(seen: torch.Tensor) -> torch.Tensor:
    """The layers of which the last row sees most inputs."""
    return seen.sum(dim=1) == seen.sum(dim=1).max()


def gaps(found: Sequence[SegmentScores], expected: Sequence[SegmentScores]) -> tuple[float, float]:
    """The largest differences of attention mass and of NLL."""
    mass, nll = [0.0], [0.0]
    for one, other in zip(found, expected, strict=True):
        assert one.segment_attention.shape == other.segment_attention.shape
        assert one.segment_attention.dtype == one.nll_nats.dtype == np.float32
        mass.append(float(np.abs(one.segment_attention - other.segment_attention).max(initial=0.0)))
        assert one.segment_layers.tolist() == other.segment_layers.tolist()
        assert one.layer_sum_error <= 1e-6
        mass.append(abs(one.rest_attention - other.rest_attention))
        nll.append(float(np.abs(one.nll_nats - other.nll_nats).max()))
    return max(mass), max(nll)


def gaps_to_eager(config: Any, dtype: torch.dtype, device: str) -> tuple[float, float]:
    """The largest differences between the engine and eager attention, over all layouts."""
    model = build_model(config, dtype, device)
    engine = ScoringEngine(model, bos_id=BOS, head_rows=7)
    lengths, segments, responses = zip(*LAYOUTS.values(), strict=True)
    sequences = [random_sequence(length) for length in lengths]
    found = engine.segment_attention(sequences, segments, responses)
    naive = [eager_scores(model, *layout) for layout in zip(sequences, segments, responses, strict=True)]
    return gaps(found, naive)


# --- against eager attention


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_and_nll_are_those_of_eager_attention(name: str) -> None:
    mass, nll = gaps_to_eager(CONFIGS[name], torch.float32, "cpu")
    assert mass <= MASS_TOLERANCE[torch.float32]
    assert nll <= NLL_TOLERANCE_NATS[torch.float32]


def test_attention_with_bf16_weights_is_near_that_of_eager_attention() -> None:
    mass, nll = gaps_to_eager(CONFIGS["random-1"], torch.bfloat16, "cpu")
    assert mass <= MASS_TOLERANCE[torch.bfloat16]
    assert nll <= NLL_TOLERANCE_NATS[torch.bfloat16]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_attention_and_nll_on_a_gpu_are_those_of_eager_attention(name: str, dtype: torch.dtype) -> None:
    mass, nll = gaps_to_eager(CONFIGS[name], dtype, "cuda")
    assert mass <= MASS_TOLERANCE[dtype]
    assert nll <= NLL_TOLERANCE_NATS[dtype]


@pytest.fixture(scope="module")
def reference() -> ScoringEngine:
    """The long reference model in fp32 on the CPU."""
    return ScoringEngine.from_folder(REFERENCE_FOLDER / "long", bos_id=0, device="cpu")


@pytest.fixture(scope="module")
def text() -> NDArray[np.int32]:
    """1,000 tokens of real text."""
    return ModelTokenizer.from_folder(REFERENCE_FOLDER / "long").encode(inspect.getsource(inspect))[:1000]


TEXT_SEGMENTS = [(start, start + 128) for start in range(0, 896, 128)]
TEXT_RESPONSE = (930, 1000)


def gaps_on_text(text: NDArray[np.int32], dtype: torch.dtype, device: str) -> tuple[float, float]:
    folder, name = REFERENCE_FOLDER / "long", str(dtype).removeprefix("torch.")
    engine = ScoringEngine.from_folder(folder, bos_id=0, dtype=name, device=device)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    found = engine.segment_attention([text], [TEXT_SEGMENTS], [TEXT_RESPONSE])
    return gaps(found, [eager_scores(model, text, TEXT_SEGMENTS, TEXT_RESPONSE, bos_id=0)])


def test_attention_on_text_is_that_of_eager_attention(text: NDArray[np.int32]) -> None:
    mass, nll = gaps_on_text(text, torch.float32, "cpu")
    assert mass <= TEXT_MASS_TOLERANCE[torch.float32]
    assert nll <= TEXT_NLL_TOLERANCE_NATS[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_on_text_on_a_gpu_is_that_of_eager_attention(text: NDArray[np.int32], dtype: torch.dtype) -> None:
    mass, nll = gaps_on_text(text, dtype, "cuda")
    assert mass <= TEXT_MASS_TOLERANCE[dtype]
    assert nll <= TEXT_NLL_TOLERANCE_NATS[dtype]


# --- how far is read


def test_a_sequence_is_read_up_to_the_end_of_its_response() -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-0"]), bos_id=BOS)
    seen: list[int] = []
    sequences = [random_sequence(50), random_sequence(30)]
    engine.segment_attention(sequences, [[(0, 9)], []], [(20, 22), (29, 30)], on_progress=seen.append)
    assert (engine.forwards, engine.tokens, seen) == (2, 52, [22, 30])
    assert engine.seconds > 0
    assert engine.segment_attention([], [], []) == []


# --- nothing is left over


def test_scores_are_the_same_afterwards(reference: ScoringEngine, text: NDArray[np.int32]) -> None:
    before = reference.score([text])[0]
    attended = reference.segment_attention([text], [TEXT_SEGMENTS], [TEXT_RESPONSE])[0]
    after = reference.score([text])[0]
    assert before.nll_nats.tobytes() == after.nll_nats.tobytes()
    np.testing.assert_allclose(attended.nll_nats, before.nll_nats[slice(*TEXT_RESPONSE)], atol=1e-4)


def test_the_same_call_gives_the_same_bytes(reference: ScoringEngine, text: NDArray[np.int32]) -> None:
    first, second = (
        reference.segment_attention([text], [TEXT_SEGMENTS], [TEXT_RESPONSE])[0].segment_attention for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_a_scoring_call_while_attention_is_reported_is_left_alone() -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-0"]), bos_id=BOS)
    ids = random_sequence(40)
    nested: list[TokenScores] = []
    expected = engine.segment_attention([ids, ids], [[(0, 9)]] * 2, [(20, 30)] * 2)
    found = engine.segment_attention(
        [ids, ids], [[(0, 9)]] * 2, [(20, 30)] * 2, on_progress=lambda _: nested.extend(engine.score([ids]))
    )
    assert gaps(found, expected) == (0, 0)
    assert nested[0].nll_nats.tobytes() == engine.score([ids])[0].nll_nats.tobytes()


def test_a_failing_forward_leaves_the_model_as_it_was() -> None:
    model = build_model(CONFIGS["random-0"])
    engine, ids = ScoringEngine(model, bos_id=BOS), random_sequence(20)
    expected = engine.score([ids])[0].nll_nats

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    hook = model.model.norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.segment_attention([ids], [[(0, 5)]], [(10, 20)])
    hook.remove()
    assert model.config._attn_implementation == "sdpa"
    assert engine.score([ids])[0].nll_nats.tobytes() == expected.tobytes()


# --- what is refused


@pytest.mark.parametrize(
    ("sequences", "segments", "responses", "message"),
    [
        ([[5], [5] * WINDOW], [[], []], [(0, 1), (9, 10)], r"sequence 1 has 160 tokens, with BOS 161, .* is 160"),
        ([[5] * 9], [[]], [(4, 4)], r"the response of sequence 0 is empty or out of range: \[4, 4\); give .* <= 9"),
        ([[5] * 9], [[]], [(4, 10)], r"the response of sequence 0 is empty or out of range: \[4, 10\)"),
        ([[5] * 9], [[(-1, 2)]], [(4, 9)], r"a segment before the response of sequence 0 is .*: \[-1, 2\)"),
        ([[5] * 9], [[(0, 5)]], [(4, 9)], r"a segment .* of sequence 0 is .*: \[0, 5\); give .* <= 4"),
        ([[5] * 9], [[(3, 3)]], [(4, 9)], r"a segment .* is empty or out of range: \[3, 3\)"),
        ([[5] * 9], [[(2, 4), (0, 3)]], [(4, 9)], r"the segments \[0, 3\] and \[2, 4\] of sequence 0 overlap"),
        ([[5] * 9], [[]], [[(4, 6), (5, 9)]], r"the pieces \[4, 6\] and \[5, 9\] of the response .* 0 overlap or are"),
        ([[5] * 9], [[(0, 5)]], [[(4, 5), (6, 9)]], r"a segment .* of sequence 0 is .*: \[0, 5\); give .* <= 4"),
        ([[5, VOCABULARY]], [[]], [(0, 1)], r"token id 97 is outside the model's vocabulary"),
        ([[5] * 9], [[], []], [(0, 1)], r"2 lists of segments and 1 responses for 1 sequences"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(
    sequences: list[list[int]], segments: list[list[Span]], responses: list[Response], message: str
) -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-0"]), bos_id=BOS)
    with pytest.raises(ValueError, match=message):
        engine.segment_attention([np.array(sequence) for sequence in sequences], segments, responses)
    assert engine.forwards == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.Gemma2Config(**SHAPE, head_dim=8), "cannot be watched: its attention has capped scores"),
        (
            transformers.GptOssConfig(**SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
            "cannot be watched: its attention has attention sinks",
        ),
        (
            transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4),
            "the attention of MambaForCausalLM cannot be watched: it has layers of the kind linear_attention",
        ),
    ],
    ids=["capped", "sinks", "recurrent"],
)
@pytest.mark.filterwarnings("ignore:.*is read in padded batches")
def test_attention_that_is_not_done_here_is_refused(config: Any, message: str) -> None:
    model = build_model(config)
    before = model.config._attn_implementation
    engine, ids = ScoringEngine(model, bos_id=BOS, window=64), random_sequence(20)
    expected = engine.score([ids])[0].nll_nats
    with pytest.raises(ValueError, match=message):
        engine.segment_attention([ids], [[(0, 5)]], [(10, 20)])
    assert model.config._attn_implementation == before
    assert engine.score([ids])[0].nll_nats.tobytes() == expected.tobytes()
