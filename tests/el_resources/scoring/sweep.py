"""One architecture, tried: the engine's scores and attention are those of a plain forward, or it is refused."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from el_resources.scoring import ScoringEngine
from tests.el_resources.scoring.oracle import largest_gap, plain_scores
from tests.el_resources.scoring.tiny_models import BOS, POSITIONS, VOCABULARY, tiny_model

SCORES_NATS, ATTENTION_MASS = 1e-4, 1e-5
LENGTHS = (60, 41, 3, 33)


@dataclass(frozen=True)
class Outcome:
    """The way in which an architecture is read (`packed`, `padded` or `refused`) and watched, with the reasons."""

    name: str
    read: str
    watched: bool
    why: str


def outcome_of(model: Any) -> Outcome:
    """Score with a model and compare.

    Raises:
        AssertionError: scores or attention differ from those of a plain forward, or a refusal does not name the class.
    """
    name = type(model).__name__
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            engine = ScoringEngine(model, bos_id=BOS, window=min(POSITIONS, 160), max_batch_tokens=120)
    except ValueError as error:
        assert name in str(error), f"a refusal that does not name {name}: {error}"
        return Outcome(name, "refused", False, str(error))
    generator = np.random.default_rng(7)
    sequences = [generator.integers(3, VOCABULARY, length, dtype=np.int32) for length in LENGTHS]
    gap = largest_gap(engine.score(sequences), [plain_scores(model, sequence) for sequence in sequences])
    assert gap <= SCORES_NATS, f"{name} is scored {gap:.2g} nats off"
    if not engine.why_not_watched:
        _compare_attention(model, engine, sequences[0])
    padded = any("padded batches" in str(one.message) for one in told)
    return Outcome(name, "padded" if padded else "packed", not engine.why_not_watched, engine.why_not_watched)


def _compare_attention(model: Any, engine: ScoringEngine, sequence: Any) -> None:
    """Compare the mass on two segments with eager attention: the mean of the layers that reach a segment."""
    segments, response = [(0, 11), (25, 30)], (44, len(sequence))
    found = engine.segment_attention([sequence], [segments], [response])[0]
    layers_LNN = plain_attention(model, sequence)
    mass_LN = layers_LNN[:, response[0] : response[1]].mean(axis=1)
    # Eager attention gives exactly 0 beyond a window, so the last row shows how far each layer sees.
    seen_LN = layers_LNN[:, response[1] - 1] > 0
    expected = np.array([mass_LN[_reaching(seen_LN, s), s + 1 : e + 1].sum(axis=1).mean() for s, e in segments])
    gap = float(np.abs(found.segment_attention - expected).max())
    assert gap <= ATTENTION_MASS, f"{type(model).__name__}: attention is {gap:.2g} off"


def _reaching(seen_LN: Any, start: int) -> Any:
    """Return the layers whose last row sees a segment's first input; if none does, those that see most."""
    seen_L = seen_LN.sum(axis=1)
    return seen_LN[:, start + 1] if seen_LN[:, start + 1].any() else seen_L == seen_L.max()


@torch.inference_mode()
def plain_attention(model: Any, sequence: Any) -> Any:
    """Return eager attention of each layer's rows on each input, mean over heads."""
    before = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation("eager")
    try:
        inputs = torch.tensor([[BOS, *sequence[:-1].tolist()]])
        layers = model(input_ids=inputs, output_attentions=True, use_cache=False).attentions
    finally:
        model.set_attn_implementation(before)
    return torch.stack([layer[0].double().mean(dim=0) for layer in layers]).numpy()


def outcome_of_type(model_type: str, **changes: Any) -> Outcome:
    """The outcome of a tiny model of a type."""
    return outcome_of(tiny_model(model_type, **changes))
