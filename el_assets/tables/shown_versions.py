"""The code version that Dagster shows for an asset; it changes with the code and with the settings of the asset.

So the UI shows partitions as *Unsynced* after a change of a setting that they depend on, and names the asset with the
changed code version. It is derived from the recipes (`el_assets.tables.recipes`) but is not part of fingerprints. Only
fingerprints decide whether a table is made again; `python -m el_assets status` says why.
"""

from collections.abc import Iterator

from el_assets.catalogue import INPUTS_OVER_SHARDS, RECIPES, SETTINGS_WITHOUT_RECIPE
from el_assets.tables.description import ROLE_SETTINGS
from el_resources.settings import Settings
from el_resources.store.stamps import digest

VERSIONED = RECIPES.keys() | INPUTS_OVER_SHARDS.keys()
DIGITS = 8


def shown_version(asset: str, settings: Settings) -> str:
    """Return the code version of an asset under the settings, such as `1-711fd255`; it covers all its inputs."""
    versions = {name: RECIPES[name].code_version for name in _made_from(asset) if name in RECIPES}
    names = {name for made in versions for name in _settings_of(made)}
    for made, settings_of_it in SETTINGS_WITHOUT_RECIPE.items():
        if made in _made_from(asset):
            names.update(settings_of_it)
    chosen = settings.subset(tuple(names))
    return f"{versions.get(asset, '1')}-{digest({'versions': versions, 'settings': chosen})[:DIGITS]}"


def _made_from(asset: str) -> Iterator[str]:
    """Yield the asset and all assets that it is made from."""
    yield asset
    inputs = INPUTS_OVER_SHARDS.get(asset) or RECIPES[asset].inputs
    for name in inputs:
        yield from _made_from(name)


def _settings_of(asset: str) -> Iterator[str]:
    """Yield the settings of a recipe, and those that choose its models."""
    recipe = RECIPES[asset]
    yield from recipe.settings
    for role in recipe.models:
        yield from ROLE_SETTINGS[role]
