"""Metadata of a materialization from its stamp: rows, columns, path, cost, settings and models."""

from typing import Any

import dagster as dg

from el_assets.catalogue import TABLES
from el_assets.tables.schemas import dagster_schema
from el_resources.addresses import without_secrets
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp


def table_metadata(tables: ShardTables, stamp: Stamp, *, skipped: bool) -> dict[str, Any]:
    """Return the metadata of a stored table. If it was skipped, its costs are those of the run that made it."""
    path = tables.path(stamp.asset, stamp.partition)
    facts = dict(stamp.facts)
    metadata: dict[str, Any] = {
        "dagster/row_count": facts.pop("rows"),
        "dagster/uri": without_secrets(str(path)),
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
