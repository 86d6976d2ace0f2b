"""Metadata of GATEAU's materializations: pictures, and numbers that Dagster plots over time."""

from typing import Any

import polars as pl

from el_assets.plots.pictures import picture
from el_resources.settings import Settings


def cam_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.gateau import attention_and_importance

    return {
        "picture_of_attention": picture(attention_and_importance(frame)),
        "mean_attention_on_context": frame["segment_attention"].list.sum().mean(),
    }


def hmg_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    gap = frame["nll_short_nats"] - frame["nll_long_nats"]
    return {"median_gap_nats": gap.median(), "mean_nll_long_nats": frame["nll_long_nats"].mean()}


def influence_scores(frame: pl.DataFrame, settings: Settings) -> dict[str, Any]:
    from el_assets.plots.gateau import influence_plane

    return {"picture_of_pool": picture(influence_plane(frame))}
