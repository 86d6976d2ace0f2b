"""Scores that are not finite: they are set aside and counted, so that no other shard waits for them.

A model whose activations leave the range of its dtype, most often float16, gives NaN for some texts and good scores for
the rest. Scoring those texts once more gives NaN once more; another dtype is what helps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

# Names of what was set aside that a stamp holds.
NAMES_KEPT = 5
OTHER_DTYPE = (
    "Set EL_DTYPE=bfloat16 or float32, whose range is wider than that of float16; if float32 does not help, the "
    "model's weights are faulty"
)


def is_finite(*scores: Any) -> bool:
    """Return whether no number of the arrays is NaN or infinite."""
    return all(bool(np.isfinite(values).all()) for values in scores)


def finite_rows(table: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Return (the rows whose numbers, those of lists too, are all finite; the `sample_id`s of the others)."""
    single = [name for name, dtype in table.schema.items() if dtype.is_float()]
    lists = [name for name, dtype in table.schema.items() if isinstance(dtype, pl.List) and dtype.inner.is_float()]
    fine = pl.all_horizontal(
        *(pl.col(name).is_finite() for name in single),
        *(pl.col(name).list.eval(pl.element().is_finite()).list.all() for name in lists),
    ).fill_null(False)
    return table.filter(fine), [repr(name) for name in table.filter(~fine)["sample_id"]]


def set_aside_facts(kind: str, names: Sequence[str], dtype: str) -> dict[str, Any]:
    """Return what a stamp says of scores that are not finite: how many, the first few, and the weights' dtype.

    Args:
        kind: what has a score, in the plural, such as `roots`.
        names: those whose scores are not finite.
    """
    return {
        f"{kind}_not_finite": len(names),
        f"{kind}_not_finite_first": list(names[:NAMES_KEPT]),
        "dtype": dtype,
    }


def not_finite(facts: Mapping[str, Any], kind: str) -> list[str]:
    """Return one line that says what was set aside, by a stamp's facts; empty if nothing was."""
    count = facts.get(f"{kind}_not_finite", 0)
    if not count:
        return []
    first = ", ".join(facts[f"{kind}_not_finite_first"])
    return [f"{count:,} {kind} have scores that are not finite in {facts['dtype']} and are set aside: {first}"]
