"""Metadata of EntropyLong's materializations: pictures, and numbers that Dagster plots over time."""

from typing import Any

import polars as pl

from el_assets.plots.pictures import picture
from el_resources.settings import Settings


def entropy_maps(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import entropy_histogram

    return {
        "picture_of_entropies": picture(entropy_histogram(frame)),
        "mean_entropy_nats": frame["mean_nats"].mean(),
        "mean_threshold_nats": frame["threshold_nats"].mean(),
        "anchors_per_root": frame["anchors"].list.len().mean(),
    }


def candidate_contexts(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import retrieval_overview

    return {
        "picture_of_retrieval": picture(retrieval_overview(frame, settings.candidates_per_anchor)),
        "mean_similarity_of_first_candidates": frame.filter(pl.col("rank") == 0)["similarity"].mean(),
        "mean_similarity": frame["similarity"].mean(),
    }


def context_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import scores_overview

    return {
        "picture_of_reductions": picture(scores_overview(frame, settings.epsilon)),
        "mean_reduction_retrieved": frame.filter(~pl.col("is_control"))["reduction"].mean(),
        "mean_reduction_random": frame.filter("is_control")["reduction"].mean(),
    }


def verified_pairs(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import contexts_per_root

    roots = frame["doc_id"].n_unique()
    return {
        "picture_of_contexts_per_root": picture(contexts_per_root(frame)),
        "contexts_per_root_with_any": frame.height / roots if roots else None,
    }


def packed_sequences(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.entropylong import context_distances, sequence_fill, tokens_by_kind

    tokens = tokens_by_kind(frame)
    total = sum(tokens.values())
    return {
        "picture_of_fill_and_distances": picture(sequence_fill(frame)),
        "context_share_of_tokens": tokens.get("context", 0) / total if total else None,
        "median_distance_tokens": context_distances(frame)["distance_tokens"].median(),
    }
