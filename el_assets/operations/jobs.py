"""Jobs, cut so that a run has one partition definition and a one-shard click never rebuilds the index."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from el_assets.catalogue import ASSETS_OF_JOBS, made_under
from el_assets.operations.run_needs import ray_tags
from el_assets.parts import JOBS, REPORTS, Job
from el_resources.settings import Settings


class Jobs:
    """The jobs of the workspace; their tags follow from the settings."""

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
                "Record the fingerprints of the models that the settings name, so that a changed model shows.",
            ),
            *map(tables_job, JOBS),
            job(
                "build_reports",
                tuple(REPORTS.values()),
                [],
                "Write the HTML reports from the tables in the store; needs no model.",
            ),
        ]
        self._made = {one.name: one for one in made}

    def named(self, name: str) -> Any:
        """Return the job of a name."""
        return self._made[name]

    def all(self) -> list[Any]:
        """Return every job."""
        return list(self._made.values())
