"""The resources that a run needs on a Ray cluster, as a tag of the run; only dagster-ray's launcher reads it."""

import json
from collections.abc import Collection

import dagster as dg

from el_resources.settings import Settings

RAY_TAG = "dagster-ray/config"


def ray_tags(settings: Settings, parts: Collection[str], *, on_ray: bool) -> dict[str, str]:
    """Return the tag of runs that make assets of these parts; none if Ray does not execute the runs.

    Without parts a run gets cores only. Ray hides the GPUs from runs that did not ask for one, so every part that loads
    a model asks.
    """
    if not on_ray:
        return {}
    needs = {"num_cpus": settings.cores_per_run}
    if any(_reads_a_model(part, settings) for part in parts) and settings.gpus_per_run:
        needs["num_gpus"] = settings.gpus_per_run
    return {RAY_TAG: json.dumps(needs)}


def _reads_a_model(part: str, settings: Settings) -> bool:
    """Return true if a part uses a model; the embedded encoder only adds up vectors and does not count."""
    return part != "index" or settings.encoder != "reference-idf"


def launches_on_ray(instance: dg.DagsterInstance) -> bool:
    """Return true if the instance launches runs as jobs of a Ray cluster."""
    return any(kind.__module__.startswith("dagster_ray") for kind in type(instance.run_launcher).__mro__)
