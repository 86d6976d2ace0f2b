"""dagster-ray's run launcher, restricted to runs that ask a Ray cluster for resources and nothing else.

The tag `dagster-ray/config` of a run may also name a runtime environment and variables, and dagster-ray accepts it from
whoever launches the run. It could name code that the nodes fetch and run with their credentials, or set
`EL_TRUST_REMOTE_CODE=true`. Such a run fails with a message, and no job is submitted.
"""

import json
from collections.abc import Mapping
from uuid import UUID

from dagster._core.launcher.base import LaunchRunContext, ResumeRunContext
from dagster_ray import RayRunLauncher

from el_assets.operations.run_needs import RAY_TAG

RESOURCES = ("num_cpus", "num_gpus", "memory", "resources")


class GuardedRayRunLauncher(RayRunLauncher):
    """A launcher whose jobs have the environment of deploy/ and no other."""

    def launch_run(self, context: LaunchRunContext) -> None:
        refuse_more_than_resources(context.dagster_run.run_id, context.dagster_run.tags)
        super().launch_run(context)

    def resume_run(self, context: ResumeRunContext) -> None:
        refuse_more_than_resources(context.dagster_run.run_id, context.dagster_run.tags)
        super().resume_run(context)


def refuse_more_than_resources(run_id: str, tags: Mapping[str, str]) -> None:
    """Raise ValueError if a run's tag asks for code, variables or a command of its own."""
    UUID(run_id)  # raises ValueError if the id is malformed, since it becomes part of a shell command
    asked = json.loads(tags.get(RAY_TAG, "{}"))
    if not isinstance(asked, dict) or (others := sorted(set(asked) - set(RESOURCES))):
        named = ", ".join(others) if isinstance(asked, dict) else repr(asked)
        raise ValueError(
            f"the tag {RAY_TAG} asks for {named}, which only deploy/dagster.yaml may give; a run may ask for "
            f"{', '.join(RESOURCES)}"
        )
