"""Scores of texts against plain transformers forwards, in fp32 on the CPU."""

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from el_assets.entropylong.tables import CONTEXT_SCORES
from el_assets.entropylong.verification import with_reductions
from el_assets.gateau.texts import awareness, guidance
from el_resources.models.causal_lm import ModelChoice
from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.scoring.texts import TextScorer
from el_resources.settings import Settings
from tests.el_resources.scoring.oracle import plain_scores

TOLERANCE_NATS = 1e-5
CONTEXT = "The function frobnicate(path) returns the names of the files in a folder."
TEXT = "Call frobnicate(path). The function returns the names of the files in a folder."
SAMPLES = [("The module reads and writes files. " * 30 + "It is called shelve.", "What is it called?", "shelve.")]


@pytest.fixture(scope="module")
def scorer() -> TextScorer:
    return TextScorer.open(REFERENCE_FOLDER / "short", device="cpu")


@pytest.fixture(scope="module")
def plain() -> torch.nn.Module:
    """The same weights as transformers loads them, with attention that returns its weights."""
    return AutoModelForCausalLM.from_pretrained(
        REFERENCE_FOLDER / "short", dtype=torch.float32, attn_implementation="eager"
    ).eval()


def test_the_entropy_of_a_text_is_that_of_a_plain_forward(scorer: TextScorer, plain: torch.nn.Module) -> None:
    found = scorer.entropy(TEXT)
    expected = plain_scores(plain, scorer.tokenizer.encode(TEXT), scorer.tokenizer.bos_id)
    assert "".join(found.tokens) == TEXT
    np.testing.assert_allclose(found.entropy_nats, expected.entropy_nats, atol=TOLERANCE_NATS)
    np.testing.assert_allclose(found.nll_nats, expected.nll_nats, atol=TOLERANCE_NATS)


def test_the_effect_of_a_context_is_that_of_two_plain_forwards(scorer: TextScorer, plain: torch.nn.Module) -> None:
    encode, bos, positions = scorer.tokenizer.encode, scorer.tokenizer.bos_id, [7, 2]
    front = np.concatenate([encode(CONTEXT), encode("\n\n")])
    before = plain_scores(plain, encode(TEXT), bos).entropy_nats[positions]
    after = plain_scores(plain, np.concatenate([front, encode(TEXT)]), bos).entropy_nats[len(front) :][positions]
    effect = scorer.with_context(CONTEXT, TEXT, positions)
    np.testing.assert_allclose(effect.before_nats, before, atol=TOLERANCE_NATS)
    np.testing.assert_allclose(effect.after_nats, after, atol=TOLERANCE_NATS)
    table = pl.DataFrame(
        {
            **{name: [None, None] for name in CONTEXT_SCORES},
            "entropy_before_nats": effect.before_nats,
            "entropy_after_nats": effect.after_nats,
            "nll_before_nats": [1.0, 1.0],
            "nll_after_nats": [1.0, 1.0],
        }
    )
    np.testing.assert_allclose(effect.reduction, with_reductions(table)["reduction"].to_numpy(), atol=1e-6)


def test_guidance_and_awareness_are_those_of_plain_forwards(scorer: TextScorer, plain: torch.nn.Module) -> None:
    encode, bos = scorer.tokenizer.encode, scorer.tokenizer.bos_id
    context, *rest = map(encode, SAMPLES[0])
    joint, n_response = encode("\n\n"), len(rest[1])
    end = np.concatenate([joint, rest[0], joint, rest[1]])

    def nll(part: np.ndarray) -> float:
        scores = plain_scores(plain, np.concatenate([part, end]), bos)
        return float(scores.nll_nats[-n_response:].mean())

    window = 64
    kept = context[len(context) - (window - 1 - len(end)) :]
    [gap] = guidance(scorer, SAMPLES, short_window=window)
    assert gap == pytest.approx(nll(kept) - nll(context), abs=TOLERANCE_NATS)

    [found] = awareness(scorer, SAMPLES, segment_tokens=100)
    cuts = [context[start : start + 100] for start in range(0, len(context), 100)]
    np.testing.assert_allclose(found.segment_nll_nats, [nll(cut) for cut in cuts], atol=TOLERANCE_NATS)
    ids = torch.tensor([[bos, *context, *end]])
    with torch.inference_mode():
        layers = torch.stack(plain(ids, output_attentions=True).attentions)[:, 0]  # layers × heads × rows × inputs
    rows_N = layers[:, :, -1 - n_response : -1].mean(dim=(0, 1, 2)).numpy()
    expected = [rows_N[1 + start : 1 + min(start + 100, len(context))].sum() for start in range(0, len(context), 100)]
    np.testing.assert_allclose(found.attention, expected, atol=TOLERANCE_NATS)
    assert -1 <= found.cas <= 1


def test_a_position_that_the_text_lacks_is_refused(scorer: TextScorer) -> None:
    with pytest.raises(ValueError, match=r"position 99 does not exist: the text has \d+ tokens; give positions in"):
        scorer.with_context(CONTEXT, TEXT, [99])


def test_the_model_that_the_settings_name_is_opened() -> None:
    chosen = TextScorer.of_choice(ModelChoice.long(Settings.load({}, device="cpu")))
    opened = TextScorer.open(device="cpu")
    np.testing.assert_array_equal(chosen.entropy(TEXT).entropy_nats, opened.entropy(TEXT).entropy_nats)
