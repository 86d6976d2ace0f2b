"""Scores that are NaN or infinite: they are set aside and counted, so that one text does not fail a whole run.

If activations exceed the range of the dtype, most often float16, a model gives NaN for some texts and good scores for
all others. To score these texts again gives NaN again; another dtype helps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

# Number of names of rows set aside that a stamp holds.
NAMES_KEPT = 5
OTHER_DTYPE = (
    "Set EL_DTYPE=bfloat16 or float32, whose range is wider than that of float16; if float32 does not help, the "
    "model's weights are faulty"
)


def is_finite(*scores: Any) -> bool:
    """Return true if no number of the arrays is NaN or infinite."""
    return all(bool(np.isfinite(values).all()) for values in scores)


def finite_rows(table: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Return (the rows whose numbers are all finite, also in lists; the `sample_id`s of the other rows)."""
    single = [name for name, dtype in table.schema.items() if dtype.is_float()]
    lists = [name for name, dtype in table.schema.items() if isinstance(dtype, pl.List) and dtype.inner.is_float()]
    fine = pl.all_horizontal(
        *(pl.col(name).is_finite() for name in single),
        *(pl.col(name).list.eval(pl.element().is_finite()).list.all() for name in lists),
    ).fill_null(False)
    return table.filter(fine), [repr(name) for name in table.filter(~fine)["sample_id"]]


def set_aside_facts(kind: str, names: Sequence[str], dtype: str) -> dict[str, Any]:
    """Return facts for a stamp on scores that are not finite: their number, the first few, and the weights' dtype.

    Args:
        kind: the scored things in the plural, such as `roots`.
        names: names of those with scores that are not finite.
    """
    return {
        f"{kind}_not_finite": len(names),
        f"{kind}_not_finite_first": list(names[:NAMES_KEPT]),
        "dtype": dtype,
    }


def not_finite(facts: Mapping[str, Any], kind: str) -> list[str]:
    """Return a line on the scores that were set aside, from the facts of a stamp; empty if there are none."""
    count = facts.get(f"{kind}_not_finite", 0)
    if not count:
        return []
    first = ", ".join(facts[f"{kind}_not_finite_first"])
    return [f"{count:,} {kind} have scores that are not finite in {facts['dtype']} and are set aside: {first}"]
