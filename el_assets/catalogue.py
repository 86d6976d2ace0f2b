"""All tables by name, in the order of the graph; each method's folder describes its own.

A new table or a new method is added here and nowhere else: stamps, staleness, jobs, `status`, removal, the UI's
catalogue and the page of settings are derived from these descriptions.
"""

from el_assets.corpus.tables import INDEX_INPUTS, INDEX_SETTINGS
from el_assets.corpus.tables import TABLES as OF_CORPUS
from el_assets.entropylong.tables import TABLES as OF_ENTROPYLONG
from el_assets.gateau.tables import TABLES as OF_GATEAU
from el_assets.parts import JOBS
from el_assets.tables.description import Recipe, Table
from el_resources.settings import Settings

TABLES: dict[str, Table] = {table.name: table for table in (*OF_CORPUS, *OF_ENTROPYLONG, *OF_GATEAU)}
RECIPES: dict[str, Recipe] = {name: table.recipe for name, table in TABLES.items() if table.recipe}
# Inputs that span shards or partitions. The index is kept by LanceDB: it is made from tables, but is not one of them.
INPUTS_OVER_SHARDS: dict[str, tuple[str, ...]] = {
    "retrieval_index": INDEX_INPUTS,
    **{name: recipe.inputs_over_shards for name, recipe in RECIPES.items() if recipe.inputs_over_shards},
}
SETTINGS_WITHOUT_RECIPE = {"retrieval_index": INDEX_SETTINGS}
# Assets by the job that makes them, each after its inputs.
ASSETS_OF_JOBS: dict[str, tuple[str, ...]] = {
    job.name: (
        *(table.name for table in TABLES.values() if table.job == job.name and table.recipe),
        *(("retrieval_index",) if job.name == "build_index" else ()),
    )
    for job in JOBS
}


def has_table_a_shard(asset: str) -> bool:
    """Return true if there is a table of the asset for each shard of a source."""
    return asset in RECIPES and not RECIPES[asset].inputs_over_shards


def _shard_tables(tables: tuple[Table, ...]) -> tuple[str, ...]:
    """Return the names of the tables that are made for each shard, each after its inputs."""
    return tuple(table.name for table in tables if has_table_a_shard(table.name))


CORPUS_TABLES = _shard_tables(OF_CORPUS)
SEQUENCE_TABLES = _shard_tables(OF_ENTROPYLONG)
SAMPLE_TABLES = _shard_tables(OF_GATEAU)


def made_under(names: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """Return the names of the assets that the settings ask for; `cam_scores` is left out if EL_CAM=false."""
    return tuple(name for name in names if name not in RECIPES or RECIPES[name].is_made(settings))
