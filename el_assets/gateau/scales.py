"""Scales for scores: the options of the settings `hmp_normalisation`, `influence_scale` and `cosine_normalisation`.

Each is defined for ties, for equal values and for a single value, and never gives NaN. The paper writes `Norm` and
`softmax` without saying over which values. In its code both terms keep their own scale, so that the larger one alone
decides the ranking.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from el_assets.tables.finite import OTHER_DTYPE

Values = NDArray[np.float64]

# A response that the model finds impossible would overflow exp(); beyond this its perplexity is as good as infinite.
HIGHEST_NLL_NATS = 50.0


def none(values: Values) -> Values:
    """Return the values as they are."""
    return values


def minmax(values: Values) -> Values:
    """Map the values linearly to [0, 1]; equal values become 0. One extreme value squeezes all others.

    Example:
        >>> minmax(np.array([2.0, 4.0, 3.0])).tolist()
        [0.0, 1.0, 0.5]
    """
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def softmax(values: Values) -> Values:
    """Map the values to positive numbers with sum 1. One extreme value takes nearly all of it."""
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def zscore(values: Values) -> Values:
    """Shift and scale the values to mean 0 and standard deviation 1; equal values become 0."""
    std = values.std()
    # A deviation within rounding error means equal values; dividing by it would amplify noise.
    return (values - values.mean()) / std if std > 1e-12 * np.abs(values).max() else np.zeros_like(values)


def rank(values: Values) -> Values:
    """Map the values to their ranks, from 0 to 1; ties share their mean rank, a single value gets 0.5.

    No outlier can dominate this scale.

    Example:
        >>> rank(np.array([3.0, 1.0, 900.0])).tolist()
        [0.5, 0.0, 1.0]
    """
    if len(values) == 1:
        return np.array([0.5])
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    return (first + (counts - 1) / 2)[which] / (len(values) - 1)


SCALES: dict[str, Callable[[Values], Values]] = {
    "none": none,
    "minmax": minmax,
    "softmax": softmax,
    "zscore": zscore,
    "rank": rank,
}


def scaled(values: Values, name: str) -> Values:
    """Return the values on the named scale.

    Raises:
        ValueError: a value is not finite, or the name is unknown.
    """
    if name not in SCALES:
        raise ValueError(f"scale {name!r} is unknown; use one of {', '.join(SCALES)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite. {OTHER_DTYPE}")
    return SCALES[name](values.astype(np.float64)) if len(values) else values.astype(np.float64)
