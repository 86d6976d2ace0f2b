"""The jobs. Each has one partitions definition, and a run of a single shard does not rebuild the index."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from el_assets.catalogue import CORPUS_TABLES, SAMPLE_TABLES, SEQUENCE_TABLES, made_under
from el_assets.operations.run_needs import ray_tags
from el_resources.settings import Settings


class Jobs:
    """The jobs of the workspace; the settings decide their tags."""

    def __init__(self, settings: Settings, *, on_ray: bool = False) -> None:
        def job(name: str, assets: Sequence[str], parts: Sequence[str], description: str) -> Any:
            selection = dg.AssetSelection.assets(*assets)
            tags = ray_tags(settings, parts, on_ray=on_ray)
            return dg.define_asset_job(name, selection, tags=tags, description=description)

        self.observe_models = job(
            "observe_models",
            ("short_model", "long_model", "text_encoder"),
            [],
            "Hash the files of short_model, long_model and text_encoder, as the settings name them, and record each "
            "fingerprint as an observation. Downloads models of the hub; makes no table and scores nothing. Whether a "
            "table is stale does not depend on this job. `python -m el_assets run` starts with it.",
        )
        self.build_index = job(
            "build_index",
            (*CORPUS_TABLES, "retrieval_index"),
            ["index"],
            "Make documents and context_chunks of the chosen corpus shards, then update retrieval_index, which holds "
            "all registered shards.",
        )
        self.build_sequences = job(
            "build_sequences",
            SEQUENCE_TABLES,
            ["entropylong"],
            "Make EntropyLong's tables of the chosen corpus shards, from entropy_maps to packed_sequences. Needs the "
            "tables of build_index.",
        )
        self.score_samples = job(
            "score_samples",
            made_under(SAMPLE_TABLES, settings),
            ["gateau"],
            "Read the chosen instruction shards (instruction_samples) and score every sample: guidance (hmg_scores) "
            "and, unless EL_CAM=false, awareness (cam_scores).",
        )
        self.select_samples = job(
            "select_samples",
            ("influence_scores", "selected_subsets"),
            [],
            "Rank the samples of all scored shards by influence (influence_scores), and write the chosen partitions of "
            "selected_subsets. Needs no model.",
        )
        self.build_reports = job(
            "build_reports",
            ("entropylong_report", "gateau_report"),
            [],
            "Write the HTML pages entropylong_report and gateau_report from the tables in the store. Scores nothing.",
        )

    def named(self, name: str) -> Any:
        """Return the job with this name."""
        return vars(self)[name]

    def all(self) -> list[Any]:
        """Return every job."""
        return list(vars(self).values())
