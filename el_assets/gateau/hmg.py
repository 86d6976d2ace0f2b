"""Homologous models' guidance: how much easier a response becomes with a long window.

GATEAU (arXiv 2410.15633), "homologous models' guidance": PPL_θ(y|c,x) = exp(-1/|y| Σ ln p(y_i | c, x, y_<i)) under a
short-window model A and its homologous long-window sibling B; HMP = Norm(PPL_A) - Norm(PPL_B). The setting `hmg_form`
chooses how A reads a sample:

- `pair`: A is the short model, which reads the whole prompt beyond its window, without scaling.
- `pair_ntk`: the same, with transformers' dynamic NTK scaling of its rotary embeddings (the paper's extension).
- `one_model`: A is B with the context cut to the short window, so that no second model is needed.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from el_assets.gateau.prompts import Prompt
from el_assets.gateau.scales import HIGHEST_NLL_NATS, Values, scaled
from el_assets.tables.schemas import polars_schema


def hmg_table(
    sample_ids: Sequence[str],
    short: Sequence[tuple[Prompt, np.ndarray]],
    long: Sequence[tuple[Prompt, np.ndarray]],
) -> pl.DataFrame:
    """Return the `hmg_scores` table.

    Args:
        short, long: for each sample, its prompt and the NLLs (nats) of its response's tokens in that reading.
    """
    rows = [
        {
            "sample_id": sample_id,
            "nll_short_nats": mean_nll(short_nll),
            "nll_long_nats": mean_nll(long_nll),
            "n_response_tokens": len(long_nll),
            "n_context_tokens": long_prompt.context[1],
            "n_dropped_context_tokens": long_prompt.n_dropped,
            "n_dropped_context_tokens_short": short_prompt.n_dropped,
        }
        for sample_id, (short_prompt, short_nll), (long_prompt, long_nll) in zip(sample_ids, short, long, strict=True)
    ]
    return pl.DataFrame(rows, schema=polars_schema("hmg_scores"), orient="row")


def perplexity_gap(short_nll_nats: Values, long_nll_nats: Values, *, normalisation: str, perplexity: str) -> Values:
    """Return the HMP of every sample of a pool.

    Args:
        normalisation: `Norm`, over the pool.
        perplexity: `ppl`, or `log_ppl`, which a single huge perplexity does not dominate.

    Example:
        >>> short, long = np.array([2.5, 1.0]), np.array([1.0, 1.0])
        >>> perplexity_gap(short, long, normalisation="none", perplexity="log_ppl").tolist()
        [1.5, 0.0]
    """
    short, long = (_perplexity(nll, perplexity) for nll in (short_nll_nats, long_nll_nats))
    return scaled(short, normalisation) - scaled(long, normalisation)


def _perplexity(nll_nats: Values, perplexity: str) -> Values:
    return nll_nats if perplexity == "log_ppl" else np.exp(np.minimum(nll_nats, HIGHEST_NLL_NATS))


def mean_nll(nll_nats: np.ndarray) -> float:
    """Return the mean NLL over the response's tokens, in float64.

    Example:
        >>> mean_nll(np.array([1.0, 2.0, 4.5], dtype=np.float32))
        2.5
    """
    return float(nll_nats.astype(np.float64).mean())
