"""GATEAU's two measures for a few samples in memory, without tables; hmg.py and cam.py hold the formulas.

Costs per sample: two forwards for `guidance`; one forward and a short one per segment for `awareness`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from el_assets.gateau.cam import contextual_awareness
from el_assets.gateau.hmg import mean_nll, perplexity_gap
from el_assets.gateau.prompts import Parts, Prompt, build_prompt, segments_of

if TYPE_CHECKING:
    from el_resources.scoring.texts import TextScorer

# Texts of a sample: context, instruction, response.
Sample = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Awareness:
    """Attention of a sample's response to the segments of its context, and their importance.

    Attributes:
        attention: attention mass on each segment.
        segment_nll_nats: mean NLL of the response with each segment alone.
        cas: contextual awareness score, the cosine of the two (see cam.py).
    """

    attention: NDArray[np.float32]
    segment_nll_nats: NDArray[np.float64]
    cas: float


def guidance(
    scorer: "TextScorer",
    samples: Sequence[Sample],
    *,
    short_window: int,
    normalisation: str = "none",
    perplexity: str = "log_ppl",
) -> NDArray[np.float64]:
    """Return each sample's perplexity gap (HMP) between a short and the whole window of one model (`one_model`).

    Args:
        short_window: tokens of the short window, BOS included.
        normalisation, perplexity: as the settings `hmp_normalisation` and `influence_perplexity`.
    """
    long = _response_nll(scorer, _prompts(scorer, samples, scorer.engine.window))
    short = _response_nll(scorer, _prompts(scorer, samples, short_window))
    return perplexity_gap(short, long, normalisation=normalisation, perplexity=perplexity)


def awareness(
    scorer: "TextScorer",
    samples: Sequence[Sample],
    *,
    segment_tokens: int = 128,
    sign: str = "ppl",
    normalisation: str = "minmax",
) -> list[Awareness]:
    """Return the attention to and the importance of each sample's context segments, and its CAS.

    Args:
        sign, normalisation: as the settings `importance_sign` and `cosine_normalisation`.
    """
    prompts = _prompts(scorer, samples, scorer.engine.window)
    segments = [segments_of(prompt.context, segment_tokens) for prompt in prompts]
    watched = scorer.engine.segment_attention(
        [prompt.token_ids for prompt in prompts], segments, [prompt.responses for prompt in prompts]
    )
    found = []
    for prompt, spans, scores in zip(prompts, segments, watched, strict=True):
        nll = _response_nll(scorer, [prompt.with_context(*span) for span in spans])
        lengths = np.array([end - start for start, end in spans])
        cas = contextual_awareness(nll, scores.segment_attention, lengths, sign=sign, normalisation=normalisation)
        found.append(Awareness(attention=scores.segment_attention, segment_nll_nats=nll, cas=cas))
    return found


def _prompts(scorer: "TextScorer", samples: Sequence[Sample], window: int) -> list[Prompt]:
    encoded = [scorer.tokenizer.encode_batch(sample) for sample in samples]
    parts = [Parts(context, instruction, response) for context, instruction, response in encoded]
    return [build_prompt(one, scorer.separator_ids, window=window, cut="head") for one in parts]


def _response_nll(scorer: "TextScorer", prompts: Sequence[Prompt]) -> NDArray[np.float64]:
    scores = scorer.engine.score(
        [prompt.token_ids for prompt in prompts], [prompt.response_positions() for prompt in prompts]
    )
    return np.array([mean_nll(one.nll_nats) for one in scores])
