"""The code location: the one place where assets, checks, jobs, schedules and resources come together."""

import dagster as dg

from el_assets import status_checks
from el_assets.automation import following_sensors, schedules
from el_assets.corpus import assets as corpus_assets
from el_assets.corpus import checks as corpus_checks
from el_assets.entropylong import assets as entropylong_assets
from el_assets.entropylong import checks as entropylong_checks
from el_assets.gateau import assets as gateau_assets
from el_assets.gateau import checks as gateau_checks
from el_assets.jobs import JOBS
from el_assets.lost_runs import name_lost_shards
from el_assets.models import MODELS
from el_assets.removal import remove_shards
from el_assets.reports import assets as report_assets
from el_assets.schemas import TABLES, dagster_schema
from el_assets.sensors import sensors
from el_assets.shown_versions import VERSIONED, shown_version
from el_assets.sources import sources
from el_assets.telling import tell_what_changed
from el_resources.causal_lm import CausalLM
from el_resources.settings import Settings

OWNERS = ["team:entropylong"]


SETTINGS = Settings.load()


def workspace_assets() -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """All assets, with what is the same for each of them: owners, columns of its table, and a link to its source."""
    found = dg.load_assets_from_modules([corpus_assets, entropylong_assets, gateau_assets, report_assets])
    made = [asset for asset in (*MODELS, *found) if isinstance(asset, dg.AssetsDefinition)]
    linked = [asset for asset in dg.with_source_code_references(made) if isinstance(asset, dg.AssetsDefinition)]
    external = [spec.replace_attributes(owners=OWNERS) for spec in sources(SETTINGS)]
    return [*external, *(asset.map_asset_specs(_in_catalogue) for asset in linked)]


def _in_catalogue(spec: dg.AssetSpec) -> dg.AssetSpec:
    name = spec.key.to_user_string()
    columns = {"dagster/column_schema": dagster_schema(name)} if name in TABLES else {}
    version = shown_version(name, SETTINGS) if name in VERSIONED else spec.code_version
    return spec.replace_attributes(owners=OWNERS, metadata={**spec.metadata, **columns}, code_version=version)


defs = dg.Definitions(
    assets=workspace_assets(),
    asset_checks=[*corpus_checks.CHECKS, *entropylong_checks.CHECKS, *gateau_checks.CHECKS, *status_checks.CHECKS],
    jobs=[*JOBS, remove_shards],
    schedules=schedules(SETTINGS.backfill_every_hours),
    sensors=[
        *sensors(SETTINGS.watch_every_seconds),
        *following_sensors(),
        tell_what_changed(SETTINGS.watch_every_seconds),
        name_lost_shards,
    ],
    resources={
        "settings": SETTINGS.at_launch(),
        "causal_lm": CausalLM(),
    },
    # One process per run, so that its steps share one loaded model.
    executor=dg.in_process_executor,
)
