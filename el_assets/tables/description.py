"""The classes by which each method describes its tables in one place (`corpus/tables.py` and so on).

el_assets.catalogue collects the descriptions. Everything else about tables is derived from them: stamps, staleness,
checks, the UI's catalogue, and the page of settings.
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
# Role in `Recipe.models` -> settings that choose its model.
ROLE_SETTINGS = {
    "scorer": ("bos_token", "dtype", *LONG_MODEL),
    "tokenizer": ("bos_token", "end_of_text_token", *LONG_MODEL),
    "window": LONG_MODEL,
    "short_reader": ("bos_token", "dtype", "hmg_form", *SHORT_MODEL, *LONG_MODEL),
    "encoder": ("encoder",),
}
# Settings that decide which rows of a file can be read.
ROW_BOUNDS = ("bad_rows_max_share", "document_chars_max", "line_mib_max")


@dataclass(frozen=True)
class Drafted:
    """The table for which a recipe is drafted."""

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
        code_version: number that is raised whenever a change of the code changes the table's content.
        inputs: tables of the same shard that it is made from.
        inputs_over_shards: tables of which all shards or partitions together are its input.
        settings: names of the settings (fields of `Settings`) that it depends on.
        models: roles of the models that it depends on: `scorer`, `short_reader`, `tokenizer`, `window`, `encoder`.
        is_scored: it is made by a model's forwards, and so is not replaced by an empty table unless the user asks.
        is_read_from_source: it is made from a file of a source, and depends on the file's fingerprint.
        source_settings: settings on which the fingerprint of its source depends.
        file_settings: those of `settings` that are also part of the fingerprint of a source's file.
        kept_settings: those of `settings` that change rows but no scores made from them.
        reads_scored_texts: it depends only on the scored texts of its input, and not on the input's `kept_settings`.
        seen_too: further settings that its step may read; its content does not depend on them.
        further: returns parts of the recipe that exist under some settings only, by name.
        shown_parts: those of the further parts that are recorded among the table's settings.
        words: by name of a further part, a function (value before, value now) that describes the change. A value is
            None if the part does not exist.
        is_made: returns true if the table is made at all under the settings.
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
    """A table: its name, columns, recipe and pictures.

    Attributes:
        name: its asset's key.
        job: the job that makes it (el_assets.parts.JOBS).
        partitions: keys of its partitions if those are not shards; empty too for a table of all shards together.
        columns: names and types that every written frame must have.
        recipe: None for a side table, which is written together with the table of an asset.
        seen_columns: columns that `look` needs.
        look: function from these columns to metadata of a materialization, such as pictures; None for first rows only.
    """

    name: str
    job: str
    partitions: tuple[str, ...] = ()
    columns: TableSchema
    recipe: Recipe | None = None
    seen_columns: tuple[str, ...] = ()
    look: Callable[[pl.DataFrame, Settings], dict[str, Any]] | None = None
