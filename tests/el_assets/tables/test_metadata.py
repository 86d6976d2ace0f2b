from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from el_assets.tables.metadata import table_metadata
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp

FRAME = pl.DataFrame({"doc_id": ["a"]})


def stored(folder: Path, asset: str = "verified_pairs", **parts: Any) -> tuple[ShardTables, Stamp]:
    """A table on disk and its stamp, as read back."""
    tables = ShardTables(str(folder))
    tables.write(FRAME, Stamp(asset=asset, partition="a/b", recipe="r1", **parts))
    return tables, tables.require_stamp(asset, "a/b")


def shown(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata as Dagster stores it; refuses what it cannot."""
    return {name: value.value for name, value in dg.AssetMaterialization("x", metadata=metadata).metadata.items()}


def test_a_table_shows_rows_place_cost_settings_and_models(tmp_path: Path) -> None:
    facts = {"rows": 1, "forwards": 12, "seconds": 0.5, "mean": None, "by_reason": {"empty": 2}, "interval": [0.1, 0.2]}
    tables, stamp = stored(tmp_path, settings={"alpha": 2.0, "scorer": "f"}, pinned={"index_tag": "t"}, facts=facts)
    found = shown(table_metadata(tables, stamp, skipped=False))
    path = tmp_path / "tables" / "verified_pairs" / "a%2Fb.parquet"
    columns = found.pop("dagster/column_schema").columns
    assert [column.name for column in columns][:2] == ["doc_id", "chunk_id"]
    assert found == {
        "dagster/row_count": 1,
        "dagster/uri": str(path),
        "bytes": path.stat().st_size,
        "skipped": False,
        "fingerprint": stamp.fingerprint,
        "settings": {"alpha": 2.0, "scorer": "f"},
        "pinned": {"index_tag": "t"},
        "forwards_in_this_run": 12,
        "forwards": 12,
        "seconds": 0.5,
        "by_reason": {"empty": 2},
        "interval": [0.1, 0.2],
    }


def test_a_skipped_table_cost_nothing_now_and_still_says_what_it_cost(tmp_path: Path) -> None:
    found = shown(table_metadata(*stored(tmp_path, facts={"rows": 1, "forwards": 12}), skipped=True))
    assert (found["skipped"], found["forwards_in_this_run"], found["forwards"]) == (True, 0, 12)


def test_a_table_without_a_described_schema_shows_none(tmp_path: Path) -> None:
    found = shown(table_metadata(*stored(tmp_path, asset="other", facts={"rows": 1}), skipped=False))
    assert "dagster/column_schema" not in found
    assert found["forwards_in_this_run"] == 0
