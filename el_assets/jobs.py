"""Jobs, cut so that a run has one partition definition and a one-shard click never rebuilds the index."""

import os

import dagster as dg

from el_assets.recipes import CORPUS_TABLES, SAMPLE_TABLES, SEQUENCE_TABLES
from el_assets.run_needs import ray_tags
from el_resources.settings import Settings

SETTINGS, ON_RAY = Settings.load(), os.environ.get("EL_EXECUTION") == "ray"

observe_models = dg.define_asset_job(
    "observe_models",
    selection=dg.AssetSelection.assets("short_model", "long_model", "text_encoder"),
    tags=ray_tags(SETTINGS, [], on_ray=ON_RAY),
    description="Record which weights the settings name now.",
)
build_index = dg.define_asset_job(
    "build_index",
    selection=dg.AssetSelection.assets(*CORPUS_TABLES, "retrieval_index"),
    tags=ray_tags(SETTINGS, ["index"], on_ray=ON_RAY),
    description="Read shards, cut them into chunks and sync the retrieval index.",
)
build_sequences = dg.define_asset_job(
    "build_sequences",
    selection=dg.AssetSelection.assets(*SEQUENCE_TABLES),
    tags=ray_tags(SETTINGS, ["entropylong"], on_ray=ON_RAY),
    description="EntropyLong for the chosen shards, from entropy maps to packed sequences.",
)

score_samples = dg.define_asset_job(
    "score_samples",
    selection=dg.AssetSelection.assets(*SAMPLE_TABLES),
    tags=ray_tags(SETTINGS, ["gateau"], on_ray=ON_RAY),
    description="GATEAU for the chosen instruction shards: guidance and awareness of every sample.",
)
select_samples = dg.define_asset_job(
    "select_samples",
    selection=dg.AssetSelection.assets("influence_scores", "selected_subsets"),
    tags=ray_tags(SETTINGS, [], on_ray=ON_RAY),
    description="Rank the pool by influence and write the selected subsets; needs no model.",
)

build_reports = dg.define_asset_job(
    "build_reports",
    selection=dg.AssetSelection.assets("entropylong_report", "gateau_report"),
    tags=ray_tags(SETTINGS, [], on_ray=ON_RAY),
    description="Write the HTML reports over what is in the store; needs no model.",
)

JOBS = [observe_models, build_index, build_sequences, score_samples, select_samples, build_reports]
