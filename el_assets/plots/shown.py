"""Metadata of a materialization, besides costs and settings: pictures, numbers worth following over time, first rows.

They are made from the table and never stored: a picture of 20 kB in the stamp of every shard would outweigh small
tables.
"""

from typing import Any

import dagster as dg
import polars as pl

from el_assets.catalogue import TABLES
from el_resources.settings import Settings

PREVIEW_ROWS = 5
PREVIEW_CHARS = 48
PREVIEW_ITEMS = 3


def shown(asset: str, table: pl.LazyFrame, settings: Settings) -> dict[str, Any]:
    """Return the metadata of an asset's table or of one partition; only needed columns and a few whole rows are read.

    Pictures show the ε and K of the settings.
    """
    described = TABLES[asset]
    more = described.look(table.select(described.seen_columns).collect(), settings) if described.look else {}
    known = {name: value for name, value in more.items() if value is not None}
    return {**known, "first_rows": dg.MetadataValue.md(preview(table.head(PREVIEW_ROWS).collect()))}


def preview(frame: pl.DataFrame) -> str:
    """Return the first rows as a Markdown table; long texts and lists are shortened, and nothing in them is markup."""
    rows = [[_cell(value) for value in row] for row in frame.head(PREVIEW_ROWS).iter_rows()]
    lines = [frame.columns, ["---"] * frame.width, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        items = ", ".join(_cell(item) for item in value[:PREVIEW_ITEMS])
        return f"{items}, … {len(value):,} items" if len(value) > PREVIEW_ITEMS else items
    if isinstance(value, dict):
        return ", ".join(_cell(item) for item in value.values() if item is not None)
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split())
    shortened = text if len(text) <= PREVIEW_CHARS else f"{text[:PREVIEW_CHARS]}…"
    # Every sign that could be markup, as a character reference.
    return "".join(c if c.isalnum() or c in " .,:;…-/" or ord(c) > 126 else f"&#{ord(c)};" for c in shortened)
