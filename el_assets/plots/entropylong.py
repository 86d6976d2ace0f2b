"""Figures of EntropyLong's tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from el_assets.plots.drawing import BLUE, GREEN, INK, ORANGE, bars, dots, note_if_empty, panels, shares, step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40
# Reductions below -1 (entropy more than doubled) are counted at -1.
REDUCTION_EDGES = np.linspace(-1, 1, BINS + 1)


def entropy_histogram(maps: pl.DataFrame) -> "Figure":
    """Draw the token entropies of all roots, the anchors among them, and the means over roots of μ and τ."""
    tokens = maps["entropy_nats"].explode().drop_nulls().to_numpy()
    at_anchors = maps.select(pl.col("entropy_nats").list.gather(pl.col("anchors")).explode().drop_nulls()).to_series()
    edges = np.linspace(0, max(1.0, float(tokens.max(initial=0.0))), BINS + 1)
    with panels() as (figure, (axes,)):
        step(axes, edges, np.histogram(tokens, edges)[0], color=BLUE, label=f"all {len(tokens):,} tokens")
        share = 100 * len(at_anchors) / max(1, len(tokens))
        label = f"{len(at_anchors):,} anchors ({share:.1f} %)"
        counts = np.histogram(at_anchors.to_numpy(), edges)[0]
        axes.stairs(counts, edges, fill=True, color=ORANGE, hatch="///", edgecolor=INK, linewidth=0.4, label=label)
        for column, name, style in (("mean_nats", "μ", ":"), ("threshold_nats", "τ", "--")):
            if maps.height:
                middle = float(maps[column].to_numpy().mean())
                text = f"{name} {middle:.2f} nats, mean over roots"
                axes.axvline(middle, color=INK, linestyle=style, linewidth=1.2, label=text)
        axes.set(xlabel="entropy of the distribution that predicts the token, nats", ylabel="tokens")
        figure.legend(loc="outside upper center", ncols=2)
        note_if_empty(axes, len(tokens), "tokens")
    return figure


def retrieval_overview(candidates: pl.DataFrame, k: int) -> "Figure":
    """Draw the similarity of retrieved chunks by rank, and the number of anchors that retrieve each chunk.

    Args:
        candidates: `candidate_contexts`; controls have no similarity and are left out.
        k: number of candidates that an anchor should have.
    """
    retrieved = candidates.filter(~pl.col("is_control"))
    with panels(2) as (figure, (left, right)):
        _rank_panel(left, retrieved)
        per_anchor = candidates.group_by("doc_id", "anchor").agg(found=(~pl.col("is_control")).sum())["found"]
        left.set_title(f"{(per_anchor >= k).sum():,} of {len(per_anchor):,} anchors have all {k:,}", fontsize=9)
        _demand_panel(right, retrieved)
        for axes in (left, right):
            note_if_empty(axes, retrieved.height, "retrieved pairs")
    return figure


def _rank_panel(axes: "Axes", retrieved: pl.DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    similarity = pl.col("similarity")
    quantiles = {f"p{per_cent}": similarity.quantile(per_cent / 100, "linear") for per_cent in (10, 50, 90)}
    by_rank = retrieved.group_by(pl.col("rank") + 1).agg(**quantiles).sort("rank")
    _, low, middle, high = by_rank.to_numpy().T
    edges = np.arange(by_rank.height + 1) + 0.5
    if by_rank.height:
        axes.stairs(high, edges, baseline=low, fill=True, color=BLUE, alpha=0.25, label="10th to 90th percentile")
        axes.stairs(middle, edges, baseline=None, color=BLUE, linewidth=1.4, label="median of the anchors")
        axes.legend(fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, max(1, by_rank.height) + 0.5)
    axes.margins(y=0.2)  # room for the legend
    axes.use_sticky_edges = False
    axes.set(xlabel="rank among the anchor's candidates", ylabel="similarity of query and chunk")


def _demand_panel(axes: "Axes", retrieved: pl.DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    anchors = retrieved.group_by("chunk_id").len()["len"].to_numpy()
    edges = np.arange(0, anchors.max(initial=1) + 1) + 0.5
    if len(edges) > BINS:
        edges = np.linspace(edges[0], edges[-1], BINS)
    chunks, _ = np.histogram(anchors, edges)
    axes.stairs(chunks, edges, fill=True, color=ORANGE)
    axes.set(xlabel="anchors that retrieve the chunk", ylabel="chunks", yscale="symlog")
    axes.set_ylim(0, 2 * max(1, chunks.max()))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"{len(anchors):,} chunks in {retrieved.height:,} pairs", fontsize=9)


def similarity_and_reduction(scores: pl.DataFrame, epsilon: float) -> "Figure":
    """Draw the similarity of retrieved chunks to their queries, against the reduction of entropy at the anchor."""
    with panels() as (figure, (axes,)):
        _similarity_panel(axes, scores, epsilon)
    return figure


def retrieved_beside_random(scores: pl.DataFrame, epsilon: float) -> "Figure":
    """Draw the reductions of retrieved chunks and of random ones at the same anchors."""
    with panels() as (figure, (axes,)):
        _random_panel(axes, scores, epsilon)
    return figure


def scores_overview(scores: pl.DataFrame, epsilon: float) -> "Figure":
    """Draw the panels of `similarity_and_reduction` and `retrieved_beside_random` side by side."""
    with panels(2) as (figure, (left, right)):
        _similarity_panel(left, scores, epsilon)
        _random_panel(right, scores, epsilon)
    return figure


def _similarity_panel(axes: "Axes", scores: pl.DataFrame, epsilon: float) -> None:
    retrieved = scores.filter(~pl.col("is_control"))
    above = pl.col("reduction") > epsilon
    # Thin both sets separately: the few pairs above ε matter most, and would vanish among the others.
    halves = [dots(retrieved.filter(side).sort("similarity")) for side in (above, ~above)]
    drawn = pl.concat(halves).select("similarity", pl.col("reduction").clip(-1, 1))
    axes.scatter(drawn["similarity"], drawn["reduction"], s=7, color=BLUE, alpha=0.5, linewidths=0)
    axes.axhline(epsilon, color=INK, linestyle="--", linewidth=1)
    axes.set(xlabel="similarity of query and chunk", ylabel="reduction ΔI, share of H")
    axes.set_title(f"{halves[0].height:,} pairs above ε, {halves[1].height:,} others drawn", fontsize=9)
    note_if_empty(axes, retrieved.height, "retrieved pairs")


def _random_panel(axes: "Axes", scores: pl.DataFrame, epsilon: float) -> None:
    for control, colour, style, name in ((False, BLUE, "-", "retrieved"), (True, ORANGE, "--", "random")):
        values = scores.filter(pl.col("is_control") == control)["reduction"].to_numpy()
        passing = 100 * (values > epsilon).mean() if len(values) else 0.0
        label = f"{name}: {passing:.1f} % above ε"
        step(axes, REDUCTION_EDGES, shares(values, REDUCTION_EDGES), color=colour, linestyle=style, label=label)
    axes.axvline(epsilon, ymax=0.7, color=INK, linestyle="--", linewidth=1, label=f"ε = {epsilon:g}")
    axes.set(xlabel="reduction ΔI, share of H", ylabel="% of pairs", yscale="symlog")
    axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axes.set_ylim(0, 3000)  # room for the legend
    axes.legend(fontsize=8, loc="upper right")


def contexts_per_root(pairs: pl.DataFrame, *, roots_without: int = 0) -> "Figure":
    """Draw a histogram of the number of contexts that a root keeps.

    Args:
        pairs: `verified_pairs`, with `shard` if it spans several shards.
        roots_without: number of roots that keep no context; they are not in the table.
    """
    from matplotlib.ticker import MaxNLocator

    keys = ["shard", "doc_id"] if "shard" in pairs.columns else ["doc_id"]
    kept = [0] * roots_without + pairs.group_by(keys).len()["len"].to_list()
    edges = np.arange(0, max(kept, default=0) + 2) - 0.5
    if len(edges) > BINS:
        edges = np.linspace(edges[0], edges[-1], BINS)
    with panels() as (figure, (axes,)):
        axes.stairs(np.histogram(kept, edges)[0], edges, fill=True, color=BLUE)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="contexts that a root keeps", ylabel="roots")
        axes.set_title(f"{pairs.height:,} contexts, {len(kept):,} roots", fontsize=9)
    return figure


def throughput(rates: Mapping[str, Sequence[float]]) -> "Figure":
    """Draw the tokens a second of each shard, in the order of the shards, by asset.

    Args:
        rates: for each asset, a rate for every shard; 0 if the shard needed no model.
    """
    from matplotlib.ticker import MaxNLocator

    with panels() as (figure, (axes,)):
        for (asset, found), colour, mark in zip(rates.items(), (BLUE, ORANGE), ("o", "s"), strict=False):
            shown = [(number, rate) for number, rate in enumerate(found, start=1) if rate]
            axes.plot(*np.array(shown).reshape(-1, 2).T, mark, color=colour, markersize=4, label=asset)
        axes.set(xlabel="shard, in their order", ylabel="tokens/s")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
        note_if_empty(axes, sum(map(bool, (rate for found in rates.values() for rate in found))), "scored shards")
    return figure


def sequence_fill(sequences: pl.DataFrame) -> "Figure":
    """Draw the tokens by kind of segment, and the distances from contexts to the anchors that they verify."""
    from matplotlib.ticker import MaxNLocator

    with panels(2) as (figure, (left, right)):
        tokens = dict.fromkeys(("context", "root", "separator", "end_of_text"), 0)
        tokens.update(tokens_by_kind(sequences))
        bars(left, {name.replace("_", " "): n for name, n in tokens.items()}, color=GREEN)
        left.set(xlabel="tokens")
        left.xaxis.set_major_locator(MaxNLocator(4))
        distances = context_distances(sequences)["distance_tokens"].to_numpy()
        edges = np.linspace(0, max(1, int(distances.max(initial=0))), BINS // 2 + 1)
        right.stairs(np.histogram(distances, edges)[0], edges, fill=True, color=BLUE)
        right.set(xlabel="tokens from context to anchor", ylabel="anchors")
        note_if_empty(right, len(distances), "contexts")
    return figure


def tokens_by_kind(sequences: pl.DataFrame) -> dict[str, int]:
    """Return the number of tokens of all sequences, by kind of segment."""
    segments = sequences.select(pl.col("segments").explode(empty_as_null=False)).unnest("segments")
    return dict(segments.group_by("kind").agg((pl.col("end") - pl.col("start")).sum()).sort("kind").iter_rows())


def context_distances(sequences: pl.DataFrame) -> pl.DataFrame:
    """Return `distance_tokens` for every context and each anchor that it verifies: the tokens between the two.

    The anchor is in the group's root, which is the next root after the context.
    """
    segments = sequences.select("sequence_id", "segments").explode("segments", empty_as_null=False).unnest("segments")
    root_start = pl.when(pl.col("kind") == "root").then("start").backward_fill().over("sequence_id")
    return (
        segments.with_columns(root_start=root_start)
        .filter(pl.col("kind") == "context")
        .explode("anchors")
        .select("sequence_id", "chunk_id", distance_tokens=pl.col("root_start") + pl.col("anchors") - pl.col("end"))
    )
