"""The code location: the one place where assets, checks, jobs, schedules and resources come together."""

import warnings

import dagster as dg

# Backfill policies, observable sources and partitioned checks are what the graph is built on; that they are beta or
# preview is known, and their versions are pinned.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from el_assets.automation import SCHEDULES  # noqa: E402 - the decorators warn when these modules load
from el_assets.corpus import assets as corpus_assets  # noqa: E402
from el_assets.corpus import checks as corpus_checks  # noqa: E402
from el_assets.entropylong import assets as entropylong_assets  # noqa: E402
from el_assets.entropylong import checks as entropylong_checks  # noqa: E402
from el_assets.gateau import assets as gateau_assets  # noqa: E402
from el_assets.gateau import checks as gateau_checks  # noqa: E402
from el_assets.jobs import JOBS  # noqa: E402
from el_assets.models import MODELS  # noqa: E402
from el_resources.causal_lm import CausalLM  # noqa: E402
from el_resources.settings import Settings  # noqa: E402

OWNERS = ["team:entropylong"]


def workspace_assets() -> list[dg.AssetsDefinition]:
    """All assets, with what is the same for each of them."""
    found = dg.load_assets_from_modules([corpus_assets, entropylong_assets, gateau_assets])
    return [
        asset.map_asset_specs(lambda spec: spec.replace_attributes(owners=OWNERS))
        for asset in found
        if isinstance(asset, dg.AssetsDefinition)
    ]


defs = dg.Definitions(
    assets=[*MODELS, *workspace_assets()],
    asset_checks=[*corpus_checks.CHECKS, *entropylong_checks.CHECKS, *gateau_checks.CHECKS],
    jobs=JOBS,
    schedules=SCHEDULES,
    resources={
        # Configured at launch, so that one value given in a launchpad leaves the others as the environment has them.
        "settings": Settings.configure_at_launch(**Settings.load().model_dump()),
        "causal_lm": CausalLM(),
    },
    # One process per run, so that its steps share one loaded model.
    executor=dg.in_process_executor,
)
