"""The selectors whose scores add up to the influence, one entry each.

The ranking, its facts, its state, its checks, the summary and the report iterate over `SELECTORS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from el_assets.catalogue import RECIPES
from el_assets.gateau.cam import with_awareness
from el_assets.gateau.hmg import perplexity_gap
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables

KEYS = ("shard", "sample_id")


def _always(made_under: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A term of the influence.

    Attributes:
        column: its column of `influence_scores`.
        called: its name in reports and messages.
        table: the table, made for each shard, that it is computed from.
        values: returns a value for each row of that table, which has the samples of the whole pool.
        weight: returns its weight in the score.
        is_measured: returns false if a ranking under these settings is made without it.
    """

    column: str
    called: str
    table: str
    values: Callable[[pl.DataFrame, Settings], pl.Series]
    weight: Callable[[Settings], float]
    is_measured: Callable[[Mapping[str, Any]], bool] = _always


def _gap(hmg: pl.DataFrame, settings: Settings) -> pl.Series:
    short, long = (hmg[name].to_numpy() for name in ("nll_short_nats", "nll_long_nats"))
    gap = perplexity_gap(
        short, long, normalisation=settings.hmp_normalisation, perplexity=settings.influence_perplexity
    )
    return pl.Series(gap, dtype=pl.Float64)


def _awareness(cam: pl.DataFrame, settings: Settings) -> pl.Series:
    sign, normalisation = settings.importance_sign, settings.cosine_normalisation
    return with_awareness(cam, sign=sign, normalisation=normalisation)["cas"]


HMP = Selector(
    column="hmp",
    called="HMP",
    table="hmg_scores",
    values=_gap,
    weight=lambda settings: settings.influence_alpha if settings.cam else 1.0,
)
CAS = Selector(
    column="cas",
    called="CAS",
    table="cam_scores",
    values=_awareness,
    weight=lambda settings: 1 - settings.influence_alpha,
    is_measured=lambda made_under: bool(made_under.get("cam", True)),
)
SELECTORS = (HMP, CAS)


def measured_under(settings: Settings) -> list[Selector]:
    """Return the selectors of a ranking under the settings."""
    made_under = settings.subset(RECIPES["influence_scores"].settings)
    return [selector for selector in SELECTORS if selector.is_measured(made_under)]


def measured_in(tables: ShardTables) -> list[Selector]:
    """Return the selectors of the stored ranking."""
    made_under = tables.require_stamp("influence_scores").settings
    return [selector for selector in SELECTORS if selector.is_measured(made_under)]


def tables_of(selectors: Sequence[Selector]) -> list[str]:
    """Return the tables that the selectors are computed from, each once."""
    return list(dict.fromkeys(selector.table for selector in selectors))


def measured_pool(
    scores: Mapping[str, pl.DataFrame], selectors: Sequence[Selector], settings: Settings
) -> pl.DataFrame:
    """Return `shard`, `sample_id` and a column for each selector, of the samples that are in all of the tables.

    Args:
        scores: the tables of the selectors over all shards, with `shard`, by name.
    """
    pool = _known_to_all(list(scores.values()))
    columns = {one.column: one.values(pool.join(scores[one.table], on=KEYS, how="left"), settings) for one in selectors}
    return pool.with_columns(**columns)


def _known_to_all(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    pool = tables[0].select(KEYS)
    for table in tables[1:]:
        pool = pool.join(table.select(KEYS), on=KEYS, how="inner")
    return pool.sort(KEYS)
