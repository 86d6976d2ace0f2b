"""Metadata of a materialization, besides costs and settings: pictures, numbers worth following over time, first rows.

They are made from the table and never stored: a picture of 20 kB in the stamp of every shard would outweigh small
tables.
"""

import base64
from collections.abc import Callable
from typing import Any

import dagster as dg
import polars as pl

from el_resources.settings import Settings

PREVIEW_ROWS = 5
PREVIEW_CHARS = 48
PREVIEW_ITEMS = 3


def shown(asset: str, table: pl.LazyFrame, settings: Settings) -> dict[str, Any]:
    """Return the metadata of an asset's table or of one partition; only needed columns and a few whole rows are read.

    Pictures show the ε and K of the settings.
    """
    columns, look = LOOKS.get(asset, ((), _nothing_more))
    more = look(table.select(columns).collect(), settings)
    known = {name: value for name, value in more.items() if value is not None}
    return {**known, "first_rows": dg.MetadataValue.md(preview(table.head(PREVIEW_ROWS).collect()))}


def preview(frame: pl.DataFrame) -> str:
    """Return the first rows as a Markdown table; long texts and lists are shortened, and nothing in them is markup."""
    rows = [[_cell(value) for value in row] for row in frame.head(PREVIEW_ROWS).iter_rows()]
    lines = [frame.columns, ["---"] * frame.width, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        items = ", ".join(_cell(item) for item in value[:PREVIEW_ITEMS])
        return f"{items}, … {len(value):,} items" if len(value) > PREVIEW_ITEMS else items
    if isinstance(value, dict):
        return ", ".join(_cell(item) for item in value.values() if item is not None)
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    shortened = text if len(text) <= PREVIEW_CHARS else f"{text[:PREVIEW_CHARS]}…"
    # Every sign that could be markup, as a character reference.
    return "".join(c if c.isalnum() or c in " .,:;…-/" or ord(c) > 126 else f"&#{ord(c)};" for c in shortened)


def _picture(figure: Any) -> dg.MarkdownMetadataValue:
    from el_assets.plots.drawing import png

    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png(figure)).decode('ascii')})")


def _nothing_more(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    return {}


def _entropy_maps(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import entropy_histogram

    return {
        "picture_of_entropies": _picture(entropy_histogram(frame)),
        "mean_entropy_nats": frame["mean_nats"].mean(),
        "mean_threshold_nats": frame["threshold_nats"].mean(),
        "anchors_per_root": frame["anchors"].list.len().mean(),
    }


def _candidate_contexts(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import retrieval_overview

    return {
        "picture_of_retrieval": _picture(retrieval_overview(frame, settings.candidates_per_anchor)),
        "mean_similarity_of_first_candidates": frame.filter(pl.col("rank") == 0)["similarity"].mean(),
        "mean_similarity": frame["similarity"].mean(),
    }


def _context_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import scores_overview

    return {
        "picture_of_reductions": _picture(scores_overview(frame, settings.epsilon)),
        "mean_reduction_retrieved": frame.filter(~pl.col("is_control"))["reduction"].mean(),
        "mean_reduction_random": frame.filter("is_control")["reduction"].mean(),
    }


def _verified_pairs(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import contexts_per_root

    roots = frame["doc_id"].n_unique()
    return {
        "picture_of_contexts_per_root": _picture(contexts_per_root(frame)),
        "contexts_per_root_with_any": frame.height / roots if roots else None,
    }


def _packed_sequences(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import context_distances, sequence_fill, tokens_by_kind

    tokens = tokens_by_kind(frame)
    total = sum(tokens.values())
    return {
        "picture_of_fill_and_distances": _picture(sequence_fill(frame)),
        "context_share_of_tokens": tokens.get("context", 0) / total if total else None,
        "median_distance_tokens": context_distances(frame)["distance_tokens"].median(),
    }


def _cam_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.gateau import attention_and_importance

    return {
        "picture_of_attention": _picture(attention_and_importance(frame)),
        "mean_attention_on_context": frame["segment_attention"].list.sum().mean(),
    }


def _hmg_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    gap = frame["nll_short_nats"] - frame["nll_long_nats"]
    return {"median_gap_nats": gap.median(), "mean_nll_long_nats": frame["nll_long_nats"].mean()}


def _influence_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.gateau import influence_plane

    return {"picture_of_pool": _picture(influence_plane(frame))}


# Asset -> the columns that are read, and the function that makes metadata of them.
LOOKS: dict[str, tuple[tuple[str, ...], Callable[[pl.DataFrame, Settings], dict[str, Any]]]] = {
    "entropy_maps": (("entropy_nats", "anchors", "mean_nats", "threshold_nats"), _entropy_maps),
    "candidate_contexts": (("doc_id", "anchor", "chunk_id", "rank", "similarity", "is_control"), _candidate_contexts),
    "context_scores": (("is_control", "similarity", "reduction"), _context_scores),
    "verified_pairs": (("doc_id",), _verified_pairs),
    "packed_sequences": (("sequence_id", "segments"), _packed_sequences),
    "cam_scores": (("segment_tokens", "segment_attention", "segment_nll_nats"), _cam_scores),
    "hmg_scores": (("nll_short_nats", "nll_long_nats"), _hmg_scores),
    "influence_scores": (("hmp", "cas", "rank"), _influence_scores),
}
