"""Segment attention against eager attention with its full weights, one sequence at a time, over uncut sequences.

Tolerances are several times the largest gap seen; for mass in fp32, where only the order of sums differs, that is 1e-7.
With bf16 weights eager attention is itself rounded to bf16, and activations move with the kernel that made them: 0.007
of the mass and 0.2 nats with random weights, 1e-4 and 0.1 nats on text. There the watcher alone is held to float64.
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

from el_resources.model_files import REFERENCE_FOLDER
from el_resources.scoring import ScoringEngine, SegmentScores, TokenScores
from el_resources.scoring.attention import Piece
from el_resources.scoring.readers import read_packed
from el_resources.scoring.segment_mass import AttentionWatcher, segment_masses
from el_resources.tokenization import ModelTokenizer

BOS = 1
VOCABULARY = 97
WINDOW = 160
DTYPES = [torch.float32, torch.bfloat16]
MASS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
NLL_TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.6}
TEXT_MASS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-3}
TEXT_NLL_TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.3}

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
_SHAPE = {
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
    "qwen2-with-a-sliding-layer": transformers.Qwen2Config(**_SHAPE, **_SLIDING),
    "mistral-sliding": transformers.MistralConfig(**_SHAPE, sliding_window=24),
    "granite-scaled-scores": transformers.GraniteConfig(**_SHAPE, attention_multiplier=0.05),
    "gpt2-learned-positions": transformers.GPT2Config(**_GPT2_SHAPE, bos_token_id=BOS, initializer_range=0.3),
}


def build_model(config: Any, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """A model with random weights; the same ones each time."""
    torch.manual_seed(2025)
    return transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().to(device, dtype)


def random_sequence(length: int) -> NDArray[np.int32]:
    return np.random.default_rng(length).integers(0, VOCABULARY, length, dtype=np.int32)


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
    mass = weights.mean(dim=(0, 1))[start:end].mean(dim=0)  # the row that predicts token t is row t
    on_segments = [float(mass[1 + first : 1 + last].sum()) for first, last in segments]  # token t is input t + 1
    log_p = torch.log_softmax(output.logits[0, start:end].double(), dim=-1)
    nll = -log_p.gather(-1, inputs[0, 1 + start : 1 + end, None])[:, 0]
    return SegmentScores(
        segment_attention=np.array(on_segments, dtype=np.float32),
        rest_attention=float(mass.sum()) - sum(on_segments),
        nll_nats=nll.float().cpu().numpy(),
    )


def gaps(found: Sequence[SegmentScores], expected: Sequence[SegmentScores]) -> tuple[float, float]:
    """The largest differences of attention mass and of NLL."""
    mass, nll = [0.0], [0.0]
    for one, other in zip(found, expected, strict=True):
        assert one.segment_attention.shape == other.segment_attention.shape
        assert one.segment_attention.dtype == one.nll_nats.dtype == np.float32
        mass.append(float(np.abs(one.segment_attention - other.segment_attention).max(initial=0.0)))
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


def gap_to_float64(dtype: torch.dtype, device: str) -> float:
    """Between the watcher and softmax in float64, over the same queries and keys."""
    torch.manual_seed(1)
    query = torch.randn(1, 6, 70, 8, device=device).to(dtype)
    key = 3 * torch.randn(1, 2, 70, 8, device=device).to(dtype)
    watcher = AttentionWatcher(n_rows=20, max_weights=3000)
    watcher.add_layer(query[0], key[0], window=None, scale=0.3)
    scores = 0.3 * query[0].double() @ key[0].double().repeat_interleave(3, dim=0).mT
    scores.masked_fill_(torch.ones(70, 70, device=device).triu(1).bool(), -torch.inf)
    mass = scores.softmax(dim=-1)[:, -20:].mean(dim=(0, 1))
    return float(np.abs(watcher.mass() - mass.cpu().numpy()).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_computed_in_fp32(dtype: torch.dtype) -> None:
    assert gap_to_float64(dtype, "cpu") <= 1e-7


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_computed_in_fp32_on_a_gpu(dtype: torch.dtype) -> None:
    assert gap_to_float64(dtype, "cuda") <= 1e-7


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


# --- attention that is known


def test_a_model_that_looks_everywhere_alike_gives_each_input_its_share() -> None:
    model = build_model(CONFIGS["random-0"])
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)  # every score is 0
    found = ScoringEngine(model, bos_id=BOS).segment_attention([random_sequence(4)], [[(0, 1), (1, 3)]], [(3, 4)])[0]
    # Token 3 is predicted from BOS and tokens 0, 1, 2: a quarter each.
    np.testing.assert_allclose(found.segment_attention, [0.25, 0.5], rtol=1e-6)
    assert found.rest_attention == pytest.approx(0.25, rel=1e-6)


def test_masses_of_segments_are_sums_of_their_inputs_masses() -> None:
    mass = np.array([0.4, 0.1, 0.2, 0.05, 0.25])  # BOS and tokens 0 … 3
    on_segments, on_rest = segment_masses(mass, [(2, 4), (0, 1)])
    np.testing.assert_allclose(on_segments, [0.3, 0.1], rtol=1e-6)
    assert on_rest == pytest.approx(0.6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_attention_is_on_segments_or_rest(layout: str) -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-2"]), bos_id=BOS)
    length, segments, response = LAYOUTS[layout]
    found = engine.segment_attention([random_sequence(length)], [segments], [response])[0]
    assert float(found.segment_attention.sum(dtype=np.float64)) + found.rest_attention == pytest.approx(1, abs=1e-6)
    assert (found.rest_attention == pytest.approx(1, abs=1e-6)) == (segments == [])


# --- how it is computed


def watched_mass(model: Any, token_ids: NDArray[np.int32], n_rows: int, max_weights: int) -> NDArray[np.float64]:
    inputs, watcher = torch.from_numpy(token_ids.astype(np.int64)), AttentionWatcher(n_rows, max_weights)
    with torch.inference_mode():
        read_packed(model, inputs[None], torch.arange(len(inputs))[None], [Piece(0, len(inputs))], watcher)
    return watcher.mass()


@pytest.mark.parametrize("name", ["random-1", "mistral-sliding"])
@pytest.mark.parametrize("max_weights", [1, 2500])
def test_chunks_of_rows_change_nothing(name: str, max_weights: int) -> None:
    model, ids = build_model(CONFIGS[name]), random_sequence(60)
    whole = watched_mass(model, ids, n_rows=50, max_weights=10**9)
    np.testing.assert_allclose(watched_mass(model, ids, 50, max_weights), whole, atol=1e-7)


def test_weights_alive_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes, plain = build_model(CONFIGS["mistral-sliding"]), [0], torch.Tensor.softmax

    def counting(weights: torch.Tensor, dim: int) -> torch.Tensor:
        sizes.append(weights.numel())
        return plain(weights, dim)

    monkeypatch.setattr(torch.Tensor, "softmax", counting)
    watched_mass(model, random_sequence(60), n_rows=50, max_weights=2500)
    assert 2000 < max(sizes) <= 2500  # ten rows of 4 heads and at most 60 inputs


def test_a_sequence_is_read_up_to_the_end_of_its_response() -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-0"]), bos_id=BOS)
    seen: list[int] = []
    sequences = [random_sequence(50), random_sequence(30)]
    engine.segment_attention(sequences, [[(0, 9)], []], [(20, 22), (29, 30)], on_progress=seen.append)
    assert (engine.forwards, engine.tokens, seen) == (2, 52, [22, 30])
    assert engine.seconds > 0
    assert engine.segment_attention([], [], []) == []


# --- nothing is left behind


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
        ([[5, VOCABULARY]], [[]], [(0, 1)], r"token id 97 is outside the model's vocabulary"),
        ([[5] * 9], [[], []], [(0, 1)], r"2 lists of segments and 1 responses for 1 sequences"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(
    sequences: list[list[int]], segments: list[list[Span]], responses: list[Span], message: str
) -> None:
    engine = ScoringEngine(build_model(CONFIGS["random-0"]), bos_id=BOS)
    with pytest.raises(ValueError, match=message):
        engine.segment_attention([np.array(sequence) for sequence in sequences], segments, responses)
    assert engine.forwards == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.Gemma2Config(**_SHAPE, head_dim=8), "cannot be watched: its attention has capped scores"),
        (
            transformers.GptOssConfig(**_SHAPE, head_dim=8, num_local_experts=2, num_experts_per_tok=1),
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
