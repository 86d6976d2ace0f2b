"""Models read beyond their window, against plain transformers: one whole sequence at a time, a fresh model for each.

A fresh model has no frequencies of earlier input, and one sequence has no company: what transformers gives then is what
a score is to depend on. Tolerances are several times the largest gap seen (2e-5 nats in fp32); with bf16 weights the
gap is the rounding of activations, see test_engine.py.
"""

import argparse
import inspect
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.models.tokenization import ModelTokenizer
from el_resources.scoring import ScoringEngine, TokenScores
from el_resources.scoring.rope import LengthScaledRope
from tests.el_resources.scoring.tiny_models import tiny_model

BOS = 1
VOCABULARY = 97
TRAINED, WINDOW = 32, 128
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}  # 128 / 32
TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.5}
TEXT_TOLERANCE_NATS = {torch.float32: 1e-4, torch.bfloat16: 0.3}
# With BOS: within the trained window, at its edge (32), beyond it, and the whole window (128); some lengths twice.
LENGTHS = [5, 127, 30, 31, 32, 60, 100, 60, 1, 126, 5]
ORDERS: dict[str, Callable[[list[int]], list[int]]] = {
    "short-then-long": sorted,
    "long-then-short": lambda lengths: sorted(lengths, reverse=True),
    "mixed": lambda lengths: random.Random(3).sample(lengths, len(lengths)),
}

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": TRAINED,
    "bos_token_id": BOS,
    "eos_token_id": 2,
    "pad_token_id": None,
    "initializer_range": 0.3,  # wider than real models' 0.02, so that positions matter
}
CONFIGS = {
    "llama": transformers.LlamaConfig(**_SHAPE, tie_word_embeddings=False),
    "qwen2": transformers.Qwen2Config(**_SHAPE, tie_word_embeddings=True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models with random weights and a window of 32 tokens."""
    found = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(2025)
        found[name] = tmp_path_factory.mktemp(name)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(found[name])
    return found


def dynamic_engine(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> ScoringEngine:
    return ScoringEngine.from_folder(
        folder,
        bos_id=BOS,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        rope_scaling="dynamic",
        window=WINDOW,
        max_batch_tokens=300,
        head_rows=7,
    )


def random_sequence(length: int) -> NDArray[np.int32]:
    return np.random.default_rng(length).integers(0, VOCABULARY, length, dtype=np.int32)


def plain_model(
    folder: Path, rope: dict[str, Any], dtype: torch.dtype = torch.float32, device: str = "cpu", **options: Any
) -> Any:
    """transformers' own, with these RoPE parameters."""
    config = transformers.AutoConfig.from_pretrained(folder)
    config.rope_parameters = rope
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, **options)
    return model.eval().to(device)


@torch.inference_mode()
def plain_nll(model: Any, token_ids: NDArray[np.int32], bos_id: int = BOS) -> NDArray[np.float32]:
    """NLL from the full logits of the whole sequence."""
    inputs = torch.tensor([[bos_id, *token_ids.tolist()]], device=model.device)
    log_p = torch.log_softmax(model(input_ids=inputs).logits[0, :-1].double(), dim=-1)
    return -log_p.gather(-1, inputs[0, 1:, None])[:, 0].float().cpu().numpy()


def largest_gap(found: Sequence[TokenScores], expected: Sequence[NDArray[np.float32]]) -> float:
    return max(float(np.abs(one.nll_nats - other).max()) for one, other in zip(found, expected, strict=True))


def gap_to_fresh_models(folder: Path, order: str, dtype: torch.dtype, device: str) -> float:
    """Nats between one engine, reading in an order, and a fresh plain model for each sequence."""
    sequences = [random_sequence(length) for length in ORDERS[order](LENGTHS)]
    engine = dynamic_engine(folder, dtype, device)
    one_by_one = [engine.score([sequence])[0] for sequence in sequences]
    together = engine.score(sequences)
    expected = [plain_nll(plain_model(folder, DYNAMIC, dtype, device), sequence) for sequence in sequences]
    return max(largest_gap(one_by_one, expected), largest_gap(together, expected))


# --- against plain transformers


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_scores_are_those_of_a_fresh_model(folders: dict[str, Path], name: str, order: str) -> None:
    assert gap_to_fresh_models(folders[name], order, torch.float32, "cpu") <= TOLERANCE_NATS[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_scores_on_a_gpu_are_those_of_a_fresh_model(folders: dict[str, Path], order: str, dtype: torch.dtype) -> None:
    assert gap_to_fresh_models(folders["llama"], order, dtype, "cuda") <= TOLERANCE_NATS[dtype]


def test_the_oracle_would_see_frequencies_of_another_length(folders: dict[str, Path]) -> None:
    model, sequence = plain_model(folders["llama"], DYNAMIC), random_sequence(60)
    alone = plain_nll(model, sequence)
    plain_nll(model, random_sequence(127))
    # The trap: transformers keeps the frequencies of the longest input so far.
    assert np.abs(plain_nll(model, sequence) - alone).max() > 0.1


def test_attention_is_that_of_a_fresh_model(folders: dict[str, Path]) -> None:
    engine, response = dynamic_engine(folders["llama"]), (50, 70)
    lengths = [127, 100, 71]  # the response is cut out of sequences of several lengths
    segments = [(0, 16), (16, 32), (32, 41)]
    sequences = [random_sequence(length) for length in lengths]
    found = engine.segment_attention(sequences, [segments] * 3, [response] * 3)
    for scores, sequence in zip(found, sequences, strict=True):
        model = plain_model(folders["llama"], DYNAMIC, attn_implementation="eager")
        inputs = torch.tensor([[BOS, *sequence.tolist()]])
        with torch.inference_mode():
            weights = torch.stack(model(input_ids=inputs, output_attentions=True).attentions).double()
        mass = weights[:, 0, :, slice(*response)].mean(dim=(0, 1, 2))
        expected = [float(mass[start + 1 : end + 1].sum()) for start, end in segments]
        np.testing.assert_allclose(scores.segment_attention, expected, atol=1e-5)
        nll = plain_nll(plain_model(folders["llama"], DYNAMIC), sequence)[slice(*response)]
        np.testing.assert_allclose(scores.nll_nats, nll, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_unscaled_a_model_is_read_beyond_its_window_as_it_is(folders: dict[str, Path], name: str) -> None:
    engine = ScoringEngine.from_folder(folders[name], bos_id=BOS, device="cpu", window=WINDOW)
    sequences = [random_sequence(length) for length in LENGTHS]
    model = transformers.AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32)
    assert largest_gap(engine.score(sequences), [plain_nll(model, sequence) for sequence in sequences]) <= 1e-4


# --- real text


@pytest.fixture(scope="module")
def text() -> NDArray[np.int32]:
    """1,500 tokens of real text, about three trained windows of the short reference model."""
    return ModelTokenizer.from_folder(REFERENCE_FOLDER / "short").encode(inspect.getsource(argparse))[:1500]


def gap_on_text(text: NDArray[np.int32], dtype: torch.dtype, device: str) -> float:
    """Nats between the engine, which reads several lengths, and a fresh plain model for each."""
    engine = ScoringEngine.from_folder(
        REFERENCE_FOLDER / "short",
        bos_id=0,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        rope_scaling="dynamic",
        window=2048,
    )
    texts = [text[:length] for length in (300, 1500, 700, 300)]
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}  # 2048 / 512
    models = [plain_model(REFERENCE_FOLDER / "short", rope, dtype, device) for _ in texts]
    return largest_gap(
        engine.score(texts), [plain_nll(model, one, bos_id=0) for model, one in zip(models, texts, strict=True)]
    )


def test_scores_of_text_are_those_of_a_fresh_model(text: NDArray[np.int32]) -> None:
    assert gap_on_text(text, torch.float32, "cpu") <= TEXT_TOLERANCE_NATS[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scores_of_text_on_a_gpu_are_those_of_a_fresh_model(text: NDArray[np.int32], dtype: torch.dtype) -> None:
    assert gap_on_text(text, dtype, "cuda") <= TEXT_TOLERANCE_NATS[dtype]


def test_scaling_lets_a_model_read_beyond_its_window(text: NDArray[np.int32]) -> None:
    beyond = {}
    for scaling in ("none", "dynamic"):
        engine = ScoringEngine.from_folder(
            REFERENCE_FOLDER / "short", bos_id=0, device="cpu", rope_scaling=scaling, window=2048
        )
        assert engine.window == 2048
        beyond[scaling] = engine.score([text], [np.arange(1100, 1500)])[0].nll_nats.mean()
    assert beyond["none"] > 5  # 6 nats, where the long model has 2.4
    assert beyond["dynamic"] < 3.5


# --- what frequencies depend on


def test_frequencies_are_those_of_the_formula(folders: dict[str, Path]) -> None:
    model = plain_model(folders["llama"], DYNAMIC)
    exponents = np.arange(0, 8, 2) / 8  # heads are 8 wide
    for n_inputs, base in ((20, 10000.0), (32, 10000.0), (64, 10000.0 * 5 ** (8 / 6))):  # 4 · 64/32 - 4 + 1 = 5
        with LengthScaledRope.of(model).reading(n_inputs):
            np.testing.assert_allclose(model.model.rotary_emb.inv_freq, base**-exponents, rtol=1e-5)


def test_which_positions_are_wanted_changes_nothing(folders: dict[str, Path]) -> None:
    engine, sequence = dynamic_engine(folders["llama"]), random_sequence(100)
    whole = engine.score([sequence])[0].nll_nats
    for wanted in ([99], [40, 3], [10]):  # cut to 100, 41 and 11 inputs
        part = engine.score([sequence], [np.array(wanted)])[0].nll_nats
        np.testing.assert_allclose(part, whole[wanted], atol=1e-4)


def test_company_changes_nothing(folders: dict[str, Path]) -> None:
    engine, inputs = dynamic_engine(folders["llama"]), []
    engine._model.model.embed_tokens.register_forward_hook(lambda module, args, output: inputs.append(args[0].shape))
    engine.score([random_sequence(length) for length in LENGTHS], [np.arange(length) for length in LENGTHS])
    # Beyond the trained window only equal lengths share a batch: 127, 126, 100, 60 and 60, 32; the rest reads together.
    assert inputs == [(1, 127), (1, 126), (1, 100), (1, 120), (1, 32), (1, 72)]


def test_the_model_is_left_as_it_was(folders: dict[str, Path]) -> None:
    model, sequence = plain_model(folders["llama"], DYNAMIC), random_sequence(60)
    expected = plain_nll(plain_model(folders["llama"], DYNAMIC), sequence)
    engine = ScoringEngine(model, bos_id=BOS, window=WINDOW)
    engine.score([random_sequence(127), random_sequence(20)])
    assert np.array_equal(plain_nll(model, sequence), expected)
    hook = model.model.norm.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.score([random_sequence(127)])
    hook.remove()
    assert np.array_equal(plain_nll(model, sequence), expected)


def test_longrope_follows_each_sequences_own_length() -> None:
    generator = np.random.default_rng(5)
    short, long = generator.uniform(1, 2, 4).tolist(), generator.uniform(4, 8, 4).tolist()
    rope = {"rope_type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 10000.0}
    shape = {**_SHAPE, "max_position_embeddings": WINDOW, "original_max_position_embeddings": TRAINED}
    config = transformers.Phi3Config(**shape, rope_parameters=rope)
    torch.manual_seed(2025)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    sequences = [random_sequence(length) for length in LENGTHS]
    expected = [plain_nll(model, sequence) for sequence in sequences]  # this scaling forgets what it has read
    assert largest_gap(ScoringEngine(model, bos_id=BOS).score(sequences), expected) <= 1e-4


@pytest.mark.parametrize("model_type", ["llama", "phi3", "phimoe", "minicpm3"])
def test_longrope_at_its_switch_follows_the_whole_sequence(model_type: str) -> None:
    """One input more than was trained on, BOS included, is read with the long factors, wherever it is cut.

    A plain forward that leaves out the last token, which predicts nothing, reads one input less, and with the short
    factors: another model by tenths of a nat, by the comparison's fault.
    """
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 3.0, 5.0, 8.0], "rope_theta": 1e4}
    scales = {"short_mscale": 1.1, "long_mscale": 1.3} if model_type == "phimoe" else {}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": TRAINED, **factors, **scales}
    changes = {"original_max_position_embeddings": TRAINED} if model_type == "phi3" else {}
    model = tiny_model(model_type, rope_parameters=rope, sliding_window=None, **changes)
    engine = ScoringEngine(model, bos_id=BOS, window=120)
    generator = np.random.default_rng(11)
    sequences = [generator.integers(3, 97, TRAINED + more, dtype=np.int32) for more in (-2, -1, 0, 1, 40)]
    expected = [plain_nll(model, sequence) for sequence in sequences]
    assert largest_gap(engine.score(sequences), expected) <= 1e-4
    first = engine.score(sequences, [np.array([5])] * len(sequences))
    assert max(abs(float(one.nll_nats[0]) - float(nll[5])) for one, nll in zip(first, expected, strict=True)) <= 1e-4
    at_switch = sequences[2]
    cut = plain_nll(model, at_switch[:-1])
    assert np.abs(cut - expected[2][:-1]).max() > 1e-2, "the comparison that leaves the last token out"


# --- what is refused


@pytest.mark.parametrize(
    ("rope_scaling", "window", "message"),
    [
        ("yarn", 64, r"RoPE scaling 'yarn' is unknown; choose one of none, dynamic"),
        ("dynamic", None, r"scaling to a window of None: the model reads 32 as it is; give a larger window"),
        ("dynamic", 32, r"scaling to a window of 32: the model reads 32 as it is"),
        ("none", 0, r"window is 0; give at least 1"),
    ],
)
def test_bad_scalings_are_refused(
    folders: dict[str, Path], rope_scaling: Any, window: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ScoringEngine.from_folder(folders["llama"], bos_id=BOS, device="cpu", rope_scaling=rope_scaling, window=window)


def test_models_whose_rope_cannot_be_extended_are_refused(tmp_path: Path) -> None:
    llama3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3["original_max_position_embeddings"] = 16
    configs = {
        "scaled": transformers.LlamaConfig(**_SHAPE, rope_parameters=llama3),
        "learned": transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32),
    }
    for name, config in configs.items():
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=r"the model's RoPE cannot be extended: its config has the parameters"):
            ScoringEngine.from_folder(tmp_path / name, bos_id=BOS, rope_scaling="dynamic", window=WINDOW)
    with pytest.raises(ValueError, match=r"window is 128: the model has 32 positions and no RoPE; give at most 32"):
        ScoringEngine.from_folder(tmp_path / "learned", bos_id=BOS, window=WINDOW)


def test_a_sequence_beyond_the_extended_window_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"has 128 tokens, with BOS 129, and the model's window is 128"):
        dynamic_engine(folders["llama"]).score([random_sequence(128)])
