"""The assembly of the workspace: assets, checks, jobs, schedules, sensors and resources under the given settings."""

from functools import partial

import dagster as dg

from el_assets.catalogue import TABLES
from el_assets.corpus import assets as corpus_assets
from el_assets.corpus import checks as corpus_checks
from el_assets.entropylong import assets as entropylong_assets
from el_assets.entropylong import checks as entropylong_checks
from el_assets.gateau import assets as gateau_assets
from el_assets.gateau import checks as gateau_checks
from el_assets.models import MODELS
from el_assets.operations import status_checks
from el_assets.operations.changes import tell_what_changed
from el_assets.operations.failed_runs import name_lost_shards
from el_assets.operations.jobs import Jobs
from el_assets.operations.removal import remove_shards
from el_assets.operations.schedules import following_sensors, schedules
from el_assets.operations.sensors import sensors
from el_assets.reports import assets as report_assets
from el_assets.sources import KINDS
from el_assets.tables.schemas import dagster_schema
from el_assets.tables.shown_versions import VERSIONED, shown_version
from el_resources.configuration.launching import settings_at_launch
from el_resources.models.causal_lm import CausalLM
from el_resources.settings import Settings

OWNERS = ["team:entropylong"]


def build_definitions(settings: Settings, *, on_ray: bool = False) -> dg.Definitions:
    """Return the workspace under these settings, which its runs have too, unless a launch overrides them.

    Args:
        on_ray: true if runs are jobs of a Ray cluster.
    """
    jobs = Jobs(settings, on_ray=on_ray)
    return dg.Definitions(
        assets=workspace_assets(settings),
        asset_checks=[*corpus_checks.CHECKS, *entropylong_checks.CHECKS, *gateau_checks.CHECKS, *status_checks.CHECKS],
        jobs=[*jobs.all(), remove_shards],
        schedules=schedules(settings.backfill_every_hours, jobs),
        sensors=[
            *sensors(settings.watch_every_seconds),
            *following_sensors(jobs),
            tell_what_changed(settings.watch_every_seconds),
            name_lost_shards,
        ],
        resources={"settings": settings_at_launch(settings), "causal_lm": CausalLM()},
        # One process per run, so that its steps share one loaded model.
        executor=dg.in_process_executor,
    )


def workspace_assets(settings: Settings) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return all assets, each with owners, the columns of its table, and a link to its source code."""
    found = dg.load_assets_from_modules([corpus_assets, entropylong_assets, gateau_assets, report_assets])
    made = [asset for asset in (*MODELS, *found) if isinstance(asset, dg.AssetsDefinition)]
    linked = [asset for asset in dg.with_source_code_references(made) if isinstance(asset, dg.AssetsDefinition)]
    external = [kind.external_asset(settings).replace_attributes(owners=OWNERS) for kind in KINDS.values()]
    # A model is loaded once per run, so a run takes many shards.
    many_shards = dg.BackfillPolicy.multi_run(max_partitions_per_run=settings.shards_per_run)
    sharded = [asset.with_attributes(backfill_policy=many_shards) if has_shards(asset) else asset for asset in linked]
    return [*external, *(asset.map_asset_specs(partial(_in_catalogue, settings)) for asset in sharded)]


def has_shards(asset: dg.AssetsDefinition) -> bool:
    """Return true if the asset is partitioned by the shards of a source."""
    return isinstance(asset.partitions_def, dg.DynamicPartitionsDefinition)


def _in_catalogue(settings: Settings, spec: dg.AssetSpec) -> dg.AssetSpec:
    name = spec.key.to_user_string()
    columns = {"dagster/column_schema": dagster_schema(name)} if name in TABLES else {}
    version = shown_version(name, settings) if name in VERSIONED else spec.code_version
    return spec.replace_attributes(owners=OWNERS, metadata={**spec.metadata, **columns}, code_version=version)
