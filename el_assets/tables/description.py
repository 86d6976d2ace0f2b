"""The description of a table, which the folder of its method gives in one place (`corpus/tables.py` and so on).

el_assets.catalogue collects the descriptions; everything else about tables (stamps, staleness, checks, catalogue, the
page of settings) follows from them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from el_assets.tables.columns import TableSchema
from el_assets.tables.model_roles import ModelRoles
from el_resources.settings import Settings

LONG_MODEL = ("long_model", "long_model_revision", "long_window")
SHORT_MODEL = ("short_model", "short_model_revision", "short_window")
# Settings that choose the model of a role of `Recipe.models`.
ROLE_SETTINGS = {
    "scorer": ("bos_token", "dtype", *LONG_MODEL),
    "tokenizer": ("bos_token", "end_of_text_token", *LONG_MODEL),
    "window": LONG_MODEL,
    "short_reader": ("bos_token", "dtype", "hmg_form", *SHORT_MODEL, *LONG_MODEL),
    "encoder": ("encoder",),
}
# Settings that decide which rows of a file are read.
ROW_BOUNDS = ("bad_rows_max_share", "document_chars_max", "line_mib_max")


@dataclass(frozen=True)
class Drafted:
    """The table that a recipe is drafted for."""

    settings: Settings
    shard: str
    roles: ModelRoles


def _nothing(table: Drafted) -> Mapping[str, str]:
    return {}


def _always(settings: Settings) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The inputs, settings and models that a table depends on.

    Attributes:
        code_version: raised whenever the code that makes the table changes its content.
        inputs: tables of the same shard.
        inputs_over_shards: tables whose shards or partitions it is made from together.
        settings: fields of `Settings`.
        models: `scorer`, `short_reader`, `tokenizer`, `window`, `encoder`.
        is_scored: a model's forwards made it; such a table is not replaced by an empty one unless that is asked for.
        is_read_from_source: it is made from a file of a source, whose fingerprint counts.
        source_settings: settings that reach the table through the fingerprint of its source.
        file_settings: those of `settings` that also are part of the fingerprint of a source's file.
        kept_settings: those of `settings` on which no score of the table's rows depends.
        reads_scored_texts: it depends on the scored texts of its input alone, and not on `kept_settings`.
        seen_too: settings that the step may read although no content depends on them here.
        further: parts of the recipe that only some settings add, by name.
        shown_parts: those of `further` that are recorded among the table's settings.
        words: the change of a further part in words, by name, from its value before and now (None if it has none).
        is_made: returns true if the table is made under the settings at all.
    """

    code_version: str
    inputs: tuple[str, ...] = ()
    inputs_over_shards: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    is_scored: bool = False
    is_read_from_source: bool = False
    source_settings: tuple[str, ...] = ()
    file_settings: tuple[str, ...] = ()
    kept_settings: tuple[str, ...] = ()
    reads_scored_texts: bool = False
    seen_too: tuple[str, ...] = ()
    further: Callable[[Drafted], Mapping[str, str]] = _nothing
    shown_parts: tuple[str, ...] = ()
    words: Mapping[str, Callable[[str | None, str | None], str]] = field(default_factory=dict)
    is_made: Callable[[Settings], bool] = _always


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        name: its asset's key.
        job: the job that makes it (el_assets.parts.JOBS).
        partitions: keys of its partitions if those are not shards; empty too for a table of all shards together.
        columns: names and types that every written frame must have.
        recipe: None for a table that is written together with an asset's own.
        seen_columns: columns that `look` needs.
        look: metadata of a materialization, such as pictures, from these columns; None shows the first rows alone.
    """

    name: str
    job: str
    partitions: tuple[str, ...] = ()
    columns: TableSchema
    recipe: Recipe | None = None
    seen_columns: tuple[str, ...] = ()
    look: Callable[[pl.DataFrame, Settings], dict[str, Any]] | None = None
