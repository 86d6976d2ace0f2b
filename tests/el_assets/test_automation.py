import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from el_assets.automation import CORPUS_TABLES, daily_index, spanning_ranges, unfinished
from el_assets.partitions import register_shards
from el_assets.recipes import Cookbook
from el_assets.schemas import polars_schema
from el_resources.corpus_source import open_corpus
from el_resources.settings import Settings
from el_resources.shard_tables import ShardTables

A, B, C = "a.jsonl", "b.jsonl", "c.jsonl"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A corpus of three shards without tables."""
    (tmp_path / "corpus").mkdir()
    for name in (A, B, C):
        (tmp_path / "corpus" / name).write_text(json.dumps({"text": f"text of {name}"}) + "\n")
    return Settings.load({}, store=str(tmp_path / "store"), corpus=f"jsonl:{tmp_path / 'corpus'}")


@pytest.fixture
def instance(settings: Settings, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that knows the corpus's shards."""
    (tmp_path / "dagster").mkdir()
    overrides = {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster"), overrides=overrides) as instance:
        register_shards(instance, open_corpus(settings.corpus))
        yield instance


def finish(settings: Settings, *shards: str) -> None:
    """Empty tables with the stamps that they would have."""
    tables = ShardTables(settings.store)
    cookbook = Cookbook(settings, tables, open_corpus(settings.corpus))
    for shard in shards:
        for table in CORPUS_TABLES:
            tables.write(pl.DataFrame(schema=polars_schema(table)), cookbook.draft(table, shard))


def changed(settings: Settings, **changes: Any) -> Settings:
    return Settings.load({}, **{**settings.model_dump(), **changes})


def test_shards_with_a_missing_or_stale_table_are_unfinished(settings: Settings) -> None:
    finish(settings, A, B)
    ShardTables(settings.store).remove("documents", B)
    assert unfinished(settings, [C, B, A], CORPUS_TABLES) == [C, B]
    assert unfinished(settings, [C, B, A], ("entropy_maps",)) == [C, B, A]
    assert unfinished(changed(settings, chunk_tokens=31), [A], CORPUS_TABLES) == [A]


def test_a_schedule_asks_for_what_is_unfinished_in_one_range(settings: Settings, instance: dg.DagsterInstance) -> None:
    finish(settings, B)
    (request,) = tick(instance, settings)
    assert request.tags["dagster/asset_partition_range_start"] == A
    assert request.tags["dagster/asset_partition_range_end"] == C
    finish(settings, A)
    (request,) = tick(instance, settings)
    assert request.tags["dagster/asset_partition_range_start"] == C
    finish(settings, C)
    assert tick(instance, settings) == []


def tick(instance: dg.DagsterInstance, settings: Settings) -> list[dg.RunRequest]:
    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC),
        resources={"settings": settings},
    )
    found = daily_index.evaluate_tick(context)
    assert bool(found.run_requests) != bool(found.skip_message)
    return list(found.run_requests or [])


def test_spanning_ranges_by_hand() -> None:
    registered = list("abcdefgh")
    assert list(spanning_ranges("bdh", registered, size=4)) == [("b", "d"), ("h", "h")]
    assert list(spanning_ranges("hdb", registered, size=7)) == [("b", "h")]
    assert list(spanning_ranges("ace", registered, size=1)) == [("a", "a"), ("c", "c"), ("e", "e")]
    assert list(spanning_ranges("", registered)) == []


@given(wanted=st.lists(st.booleans(), max_size=40), size=st.integers(1, 10))
def test_spanning_ranges_hold_all_wanted_within_their_size(wanted: list[bool], size: int) -> None:
    registered = [f"shard {number}" for number in range(len(wanted))]
    chosen = [shard for shard, is_wanted in zip(registered, wanted, strict=True) if is_wanted]
    found = list(spanning_ranges(chosen, registered, size))
    ends = [(registered.index(first), registered.index(last)) for first, last in found]
    held = [registered[number] for first, last in ends for number in range(first, last + 1)]
    assert set(chosen) <= set(held)
    assert all(first in chosen and last in chosen for first, last in found)
    assert all(0 <= last - first < size for first, last in ends)
    assert all(last < first for (_, last), (first, _) in pairwise(ends)), "no shard is asked for twice"
