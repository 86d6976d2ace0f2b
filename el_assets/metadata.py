"""What a materialization shows in the UI: rows, columns, place, cost, settings and models, per partition."""

from typing import Any

import dagster as dg
import polars as pl

from el_assets.schemas import TABLES, dagster_schema
from el_resources.shard_tables import ShardTables, Stamp


def table_metadata(tables: ShardTables, stamp: Stamp, *, skipped: bool) -> dict[str, Any]:
    """Metadata of one stored table. A skipped one shows what its making cost then, and that it cost nothing now."""
    path = tables.path(stamp.asset, stamp.partition)
    facts = dict(stamp.facts)
    metadata: dict[str, Any] = {
        "dagster/row_count": facts.pop("rows"),
        "dagster/uri": str(path),
        "bytes": path.stat().st_size,
        "skipped": skipped,
        "fingerprint": stamp.fingerprint,
        "settings": dg.MetadataValue.json(dict(stamp.settings)),
        "forwards_in_this_run": 0 if skipped else facts.get("forwards", 0),
    }
    if stamp.asset in TABLES:
        metadata["dagster/column_schema"] = dagster_schema(stamp.asset)
    if stamp.pinned:
        metadata["pinned"] = dg.MetadataValue.json(dict(stamp.pinned))
    return {**metadata, **{name: _shown(value) for name, value in facts.items() if value is not None}}


def _shown(value: Any) -> Any:
    return dg.MetadataValue.json(value) if isinstance(value, (dict, list)) else value


def preview(frame: pl.DataFrame, columns: list[str], n: int = 5) -> dg.MarkdownMetadataValue:
    """The first rows as a Markdown table, long text cut."""
    shown = frame.select(columns).head(n).with_columns(pl.col(pl.String).str.slice(0, 80))
    with pl.Config(tbl_formatting="MARKDOWN", tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True):
        return dg.MetadataValue.md(str(shown))
