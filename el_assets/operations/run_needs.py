"""The resources that a run asks a Ray cluster for, as a tag of the run, which only dagster-ray's launcher reads."""

import json
from collections.abc import Collection

import dagster as dg

from el_resources.settings import Settings

RAY_TAG = "dagster-ray/config"


def ray_tags(settings: Settings, parts: Collection[str], *, on_ray: bool) -> dict[str, str]:
    """The tag of runs that make assets of these parts; cores only for none; no tag if runs are not executed by Ray.

    Ray hides the GPUs of a node from runs that asked for none, so whatever loads a model asks.
    """
    if not on_ray:
        return {}
    needs = {"num_cpus": settings.cores_per_run}
    if any(_reads_a_model(part, settings) for part in parts) and settings.gpus_per_run:
        needs["num_gpus"] = settings.gpus_per_run
    return {RAY_TAG: json.dumps(needs)}


def _reads_a_model(part: str, settings: Settings) -> bool:
    """Return true if a part scores or encodes; the embedded encoder adds up vectors and needs no GPU."""
    return part != "index" or settings.encoder != "reference-idf"


def launches_on_ray(instance: dg.DagsterInstance) -> bool:
    """Return true if the instance's runs become jobs of a Ray cluster."""
    return any(kind.__module__.startswith("dagster_ray") for kind in type(instance.run_launcher).__mro__)
