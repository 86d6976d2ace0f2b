"""Figures of GATEAU's tables."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from el_assets.parts import FRACTIONS, subset_size
from el_assets.plots.drawing import BLUE, GREEN, INK, ORANGE, RED, dots, note_if_empty, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Number of equal parts of a context, so that contexts of different lengths can be averaged.
PLACES = 20
NOT_SELECTED = "not selected"
# (colour, marker, size) of each subset, smallest first, and of samples that are not selected.
LOOKS = dict(
    zip([*FRACTIONS, NOT_SELECTED], [(RED, "*", 60), (ORANGE, "^", 26), (BLUE, "s", 16), (INK, "o", 8)], strict=True)
)


def influence_plane(influence: pl.DataFrame) -> "Figure":
    """Draw every sample by HMP and CAS, marked by its smallest subset; larger subsets contain the smaller ones."""
    is_measured = influence["cas"].null_count() == 0
    marked = influence.with_columns(cas=pl.col("cas").fill_null(0.0), subset=smallest_subset(influence.height))
    with panels() as (figure, (axes,)):
        for subset, (colour, marker, size) in reversed(LOOKS.items()):
            drawn = dots(marked.filter(pl.col("subset") == subset))
            label = subset.replace("_", " ").replace("percent", "%")
            axes.scatter(drawn["hmp"], drawn["cas"], s=size, color=colour, marker=marker, linewidths=0, label=label)
        axes.set(
            xlabel="HMP: gain by the long window",
            ylabel="CAS, cosine" if is_measured else "CAS: not measured",
        )
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def smallest_subset(n_samples: int) -> pl.Expr:
    """Return an expression for the name of the smallest selected subset that holds a sample of this `rank`."""
    subset = pl.lit(NOT_SELECTED)
    for name in reversed(FRACTIONS):
        subset = pl.when(pl.col("rank") < subset_size(n_samples, name)).then(pl.lit(name)).otherwise(subset)
    return subset


def attention_and_importance(cam: pl.DataFrame) -> "Figure":
    """Draw attention per 1,000 tokens, and the response's NLL with a segment alone, over the place in the context."""
    attention, nll = _by_place(cam, "segment_attention"), _by_place(cam, "segment_nll_nats")
    edges = np.linspace(0, 100, PLACES + 1)
    with panels(2) as (figure, (left, right)):
        left.stairs(100 * attention, edges, fill=True, color=BLUE)
        left.set(xlabel="place in the context, %", ylabel="attention, % per 1,000 tokens")
        right.stairs(nll, edges, baseline=None, color=GREEN, linewidth=1.6)
        right.set(xlabel="place in the context, %", ylabel="NLL, segment alone, nats")
        for axes in (left, right):
            note_if_empty(axes, int((cam["segment_tokens"].list.len() > 0).sum()), "segments")
    return figure


def _by_place(cam: pl.DataFrame, column: str) -> np.ndarray:
    """Return the mean over samples of a segment score at each place, [PLACES]; attention is per 1,000 tokens."""
    sums, counts = np.zeros(PLACES), np.zeros(PLACES)
    places = (np.arange(PLACES) + 0.5) / PLACES
    for tokens, scores in cam.select("segment_tokens", column).iter_rows():
        if not tokens:
            continue
        lengths, values = np.asarray(tokens, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        if column == "segment_attention":
            values = 1000 * values / lengths
        which = np.searchsorted(np.cumsum(lengths) / lengths.sum(), places)
        sums += values[np.minimum(which, len(values) - 1)]
        counts += 1
    return sums / np.maximum(counts, 1)


def readings(hmg: pl.DataFrame) -> "Figure":
    """Draw the NLL of each response in the short-window reading against that in the long-window reading."""
    drawn = dots(hmg)
    with panels() as (figure, (axes,)):
        axes.scatter(drawn["nll_long_nats"], drawn["nll_short_nats"], s=10, color=BLUE, alpha=0.6, linewidths=0)
        highest = float(np.max([drawn["nll_long_nats"].max() or 1.0, drawn["nll_short_nats"].max() or 1.0]))
        axes.plot([0, highest], [0, highest], color=INK, linestyle="--", linewidth=1, label="equal")
        axes.set(xlabel="NLL in the long window, nats a token", ylabel="NLL in the short window, nats a token")
        axes.legend()
    return figure
