"""Metadata of a materialization that is made from its table: pictures, numbers to follow over time, first rows.

It is not stored with the table, since a picture of 20 kB in every stamp would be larger than many tables.
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
    """Return the metadata of an asset's table or of one partition; reads only the needed columns and the first rows.

    Pictures are drawn with the ε and K of the settings.
    """
    described = TABLES[asset]
    more = described.look(table.select(described.seen_columns).collect(), settings) if described.look else {}
    known = {name: value for name, value in more.items() if value is not None}
    return {**known, "first_rows": dg.MetadataValue.md(preview(table.head(PREVIEW_ROWS).collect()))}


def preview(frame: pl.DataFrame) -> str:
    """Return the first rows as a Markdown table; long texts and lists are shortened, and markup in them is escaped."""
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
    # Every character that could be markup becomes a character reference.
    return "".join(c if c.isalnum() or c in " .,:;…-/" or ord(c) > 126 else f"&#{ord(c)};" for c in shortened)
