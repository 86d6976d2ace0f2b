"""The jobs. Each has one partitions definition, and a run of a single shard does not rebuild the index."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from el_assets.catalogue import ASSETS_OF_JOBS, made_under
from el_assets.operations.run_needs import ray_tags
from el_assets.parts import JOBS, REPORTS, Job
from el_resources.settings import Settings


class Jobs:
    """The jobs of the workspace; the settings decide their tags."""

    def __init__(self, settings: Settings, *, on_ray: bool = False) -> None:
        def job(name: str, assets: Sequence[str], parts: Sequence[str], description: str) -> Any:
            selection = dg.AssetSelection.assets(*assets)
            tags = ray_tags(settings, parts, on_ray=on_ray)
            return dg.define_asset_job(name, selection, tags=tags, description=description)

        def tables_job(one: Job) -> Any:
            parts = [one.part] if one.is_sharded else []  # the others need no model
            return job(one.name, made_under(ASSETS_OF_JOBS[one.name], settings), parts, one.description)

        made = [
            job(
                "observe_models",
                ("short_model", "long_model", "text_encoder"),
                [],
                "Hash the files of short_model, long_model and text_encoder, as the settings name them, and record "
                "each fingerprint as an observation. Downloads models of the hub; makes no table and scores nothing. "
                "Whether a table is stale does not depend on this job. `python -m el_assets run` starts with it.",
            ),
            *map(tables_job, JOBS),
            job(
                "build_reports",
                tuple(REPORTS.values()),
                [],
                "Write the HTML pages entropylong_report and gateau_report from the tables in the store. Scores "
                "nothing.",
            ),
        ]
        self._made = {one.name: one for one in made}

    def named(self, name: str) -> Any:
        """Return the job with this name."""
        return self._made[name]

    def all(self) -> list[Any]:
        """Return every job."""
        return list(self._made.values())
