"""Contextual awareness: does the model attend to the segments that matter?

GATEAU (arXiv 2410.15633), "contextual awareness measurement": the context is cut into segments of 128 tokens. The
importance IS(s_i) comes from PPL_B(y | s_i, x), the response's perplexity with the segment alone; the attention AS(s_i)
is what the response's rows pay to the segment, a mean over heads, layers, rows and the segment's tokens;
CAS = cos(IS, AS). Only attention and perplexities need the model; they are stored, and CAS is computed from them.

The paper states neither the sign of IS nor the normalisation before the cosine; both are settings. With the default
sign, `ppl`, a segment that helps has a *low* importance score. So a high CAS means that attention is on segments that
do not help, and that the sample is hard. This fits the paper, which adds CAS to the score and selects "the most
challenging samples".
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from el_assets.gateau.scales import HIGHEST_NLL_NATS, scaled
from el_assets.tables.schemas import polars_schema


def importance(segment_nll_nats: np.ndarray, sign: str) -> np.ndarray:
    """Return IS before normalisation: the perplexity with each segment alone (`ppl`), or minus it (`negative_ppl`).

    Args:
        segment_nll_nats: mean response NLL with each segment alone, [n_segments].

    Example:
        >>> importance(np.log([2.0, 8.0]), "negative_ppl").round(6).tolist()
        [-2.0, -8.0]
    """
    perplexity = np.exp(np.minimum(segment_nll_nats.astype(np.float64), HIGHEST_NLL_NATS))
    if sign not in ("ppl", "negative_ppl"):
        raise ValueError(f"importance_sign {sign!r} is unknown; use ppl or negative_ppl")
    return perplexity if sign == "ppl" else -perplexity


def contextual_awareness(
    segment_nll_nats: np.ndarray,
    segment_attention: np.ndarray,
    segment_tokens: np.ndarray,
    *,
    sign: str,
    normalisation: str,
) -> float:
    """Return a sample's CAS: the cosine of importance and attention per token, both normalised over its segments.

    Args:
        segment_attention: attention mass on each segment, [n_segments]; divided by the segment's tokens here.

    CAS is 0 if the cosine is undefined: without segments, or if one side is all zeros after normalisation.

    Example:
        >>> nll, attention, tokens = np.log([2.0, 4.0, 8.0]), np.array([0.1, 0.2, 0.6]), np.array([128, 128, 128])
        >>> round(contextual_awareness(nll, attention, tokens, sign="ppl", normalisation="minmax"), 3)
        0.992
    """
    if not len(segment_nll_nats):
        return 0.0
    score = scaled(importance(segment_nll_nats, sign), normalisation)
    attention = scaled(segment_attention.astype(np.float64) / segment_tokens, normalisation)
    length = np.linalg.norm(score) * np.linalg.norm(attention)
    return float(score @ attention / length) if length > 0 else 0.0


def with_awareness(cam: pl.DataFrame, *, sign: str, normalisation: str) -> pl.DataFrame:
    """Add `cas`, the CAS of each sample, to stored `cam_scores`."""
    columns = (cam[name] for name in ("segment_nll_nats", "segment_attention", "segment_tokens"))
    cas = [
        contextual_awareness(*(cell.to_numpy() for cell in cells), sign=sign, normalisation=normalisation)
        for cells in zip(*columns, strict=True)
    ]
    return cam.with_columns(cas=pl.Series(cas, dtype=pl.Float64))


def cam_table(rows: Sequence[dict[str, object]]) -> pl.DataFrame:
    """Return the `cam_scores` table of one shard."""
    return pl.DataFrame(rows, schema=polars_schema("cam_scores"), orient="row")
