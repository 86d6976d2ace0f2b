"""Jobs, cut so that a run has one partition definition and a one-shard click never rebuilds the index."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from el_assets.catalogue import CORPUS_TABLES, SAMPLE_TABLES, SEQUENCE_TABLES, made_under
from el_assets.operations.run_needs import ray_tags
from el_resources.settings import Settings


class Jobs:
    """The jobs of the workspace; their tags follow from the settings."""

    def __init__(self, settings: Settings, *, on_ray: bool = False) -> None:
        def job(name: str, assets: Sequence[str], parts: Sequence[str], description: str) -> Any:
            selection = dg.AssetSelection.assets(*assets)
            tags = ray_tags(settings, parts, on_ray=on_ray)
            return dg.define_asset_job(name, selection, tags=tags, description=description)

        self.observe_models = job(
            "observe_models",
            ("short_model", "long_model", "text_encoder"),
            [],
            "Record the fingerprints of the models that the settings name, so that a changed model shows.",
        )
        self.build_index = job(
            "build_index",
            (*CORPUS_TABLES, "retrieval_index"),
            ["index"],
            "Read the chosen corpus shards, split documents into chunks, and update the retrieval index.",
        )
        self.build_sequences = job(
            "build_sequences",
            SEQUENCE_TABLES,
            ["entropylong"],
            "Make EntropyLong's tables of the chosen corpus shards, from entropy_maps to packed_sequences.",
        )
        self.score_samples = job(
            "score_samples",
            made_under(SAMPLE_TABLES, settings),
            ["gateau"],
            "Make GATEAU's scores of the chosen instruction shards: guidance and awareness of every sample.",
        )
        self.select_samples = job(
            "select_samples",
            ("influence_scores", "selected_subsets"),
            [],
            "Rank all scored samples by influence and write the selected subsets; needs no model.",
        )
        self.build_reports = job(
            "build_reports",
            ("entropylong_report", "gateau_report"),
            [],
            "Write the HTML reports from the tables in the store; needs no model.",
        )

    def named(self, name: str) -> Any:
        """Return the job of a name."""
        return vars(self)[name]

    def all(self) -> list[Any]:
        """Return every job."""
        return list(vars(self).values())
