"""The code location that Dagster loads; no other module reads the environment while it is imported."""

from el_assets.workspace import build_definitions
from el_resources.configuration.environment import Environment
from el_resources.settings import Settings

ENVIRONMENT = Environment.read().values()
defs = build_definitions(Settings.load(ENVIRONMENT), on_ray=ENVIRONMENT.get("EL_EXECUTION") == "ray")
