import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.errors import ScheduleExecutionError
from hypothesis import given
from hypothesis import strategies as st

from el_assets.catalogue import CORPUS_TABLES
from el_assets.definitions import defs
from el_assets.operations.schedules import spanning_ranges
from el_assets.operations.staleness import Inventory
from el_assets.partitions import register_shards
from el_assets.sources import KINDS
from el_assets.tables.recipes import Cookbook
from el_assets.tables.schemas import polars_schema
from el_resources.settings import Settings
from el_resources.sources.opening import open_corpus
from el_resources.store.shard_tables import ShardTables

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


def unfinished(settings: Settings, *registered: str) -> list[str]:
    return Inventory(settings, open_corpus(settings.corpus), registered, KINDS["corpus"].rules).unfinished(
        CORPUS_TABLES
    )


def test_shards_with_a_missing_or_stale_table_are_unfinished(settings: Settings) -> None:
    finish(settings, A, B)
    ShardTables(settings.store).remove("documents", B)
    assert unfinished(settings, C, B, A) == [C, B]
    assert unfinished(changed(settings, chunk_tokens=31), A) == [A]


def test_a_shard_that_left_the_source_is_not_asked_for_and_no_range_spans_it(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "corpus" / B).unlink()
    first, second = tick(instance, settings)
    assert [request.tags["dagster/asset_partition_range_start"] for request in (first, second)] == [A, C]
    assert [request.tags["dagster/asset_partition_range_end"] for request in (first, second)] == [A, C]
    assert first.run_key != second.run_key


def test_sequences_wait_for_their_chunks(settings: Settings, instance: dg.DagsterInstance) -> None:
    assert f"3 of 3 registered shards wait for build_index: {A}, {B}, {C}" in message(
        instance, settings, "backfill_sequences"
    )
    finish(settings, B)
    (request,) = tick(instance, settings, "backfill_sequences")
    assert {value for tag, value in request.tags.items() if "partition_range" in tag} == {B}


def test_a_run_takes_as_many_shards_as_the_setting_says(settings: Settings, instance: dg.DagsterInstance) -> None:
    assert len(tick(instance, changed(settings, shards_per_run=2))) == 2


def test_nothing_is_asked_for_while_a_run_of_the_job_is_under_way(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    run = instance.create_run_for_job(defs.resolve_job_def("build_index"), status=dg.DagsterRunStatus.STARTED)
    assert message(instance, settings) == "1 runs of build_index are queued or running"
    instance.report_run_failed(run)
    assert len(tick(instance, settings)) == 1


def test_a_source_that_cannot_be_listed_fails_the_tick(
    settings: Settings, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    for file in (tmp_path / "corpus").iterdir():
        file.unlink()
    with pytest.raises(ScheduleExecutionError) as raised:
        tick(instance, settings)
    assert "no file below" in str(raised.value.__cause__)


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


def test_a_tick_logs_which_shards_and_why(settings: Settings, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    finish(settings, A, B)
    (tmp_path / "corpus" / B).write_text('{"text": "another"}')
    assert logged(instance, changed(settings, chunk_tokens=31), "backfill_index") == [
        f"documents: missing: 1 shards: {C}",
        f"documents: stale: source changed: 1 shards: {B}",
        f"context_chunks: missing: 1 shards: {C}",
        f"context_chunks: stale: setting chunk_tokens was 128, is 31: 1 shards: {A}",
        f"context_chunks: stale: its input documents is stale: 1 shards: {B}",
        f"starts build_index: {A} to {C}",
    ]
    finish(settings, B, C)
    assert logged(instance, settings, "backfill_index") == ["all 3 registered shards are up to date"]


def logged(instance: dg.DagsterInstance, settings: Settings, schedule: str) -> list[str]:
    """Lines of a tick's log."""
    lines = []
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC),
        resources={"settings": settings},
    ) as context:
        context.log.addHandler(handler := ListHandler(lines))
        try:
            defs.resolve_schedule_def(schedule).evaluate_tick(context)
        finally:
            context.log.removeHandler(handler)
    return lines


class ListHandler(logging.Handler):
    """Keeps messages in a list."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def tick(instance: dg.DagsterInstance, settings: Settings, schedule: str = "backfill_index") -> list[dg.RunRequest]:
    return list(evaluated(instance, settings, schedule).run_requests or [])


def message(instance: dg.DagsterInstance, settings: Settings, schedule: str = "backfill_index") -> str:
    return evaluated(instance, settings, schedule).skip_message or ""


def evaluated(instance: dg.DagsterInstance, settings: Settings, schedule: str) -> Any:
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC),
        resources={"settings": settings},
    ) as context:
        found = defs.resolve_schedule_def(schedule).evaluate_tick(context)
    assert bool(found.run_requests) != bool(found.skip_message)
    return found


def test_spanning_ranges_by_hand() -> None:
    registered = list("abcdefgh")
    assert list(spanning_ranges("bdh", registered, size=4)) == [("b", "d"), ("h", "h")]
    assert list(spanning_ranges("hdb", registered, size=7)) == [("b", "h")]
    assert list(spanning_ranges("ace", registered, size=1)) == [("a", "a"), ("c", "c"), ("e", "e")]
    assert list(spanning_ranges("", registered, size=4)) == []
    assert list(spanning_ranges("abeh", registered, size=8, barred="cg")) == [("a", "b"), ("e", "e"), ("h", "h")]
    assert list(spanning_ranges("abc", registered, size=8, barred="b")) == [("a", "a"), ("c", "c")]


@given(states=st.lists(st.sampled_from(["wanted", "done", "barred"]), max_size=40), size=st.integers(1, 10))
def test_spanning_ranges_hold_all_wanted_within_their_size(states: list[str], size: int) -> None:
    registered = [f"shard {number}" for number in range(len(states))]
    chosen, barred = (
        [shard for shard, state in zip(registered, states, strict=True) if state == asked]
        for asked in ("wanted", "barred")
    )
    found = list(spanning_ranges(chosen, registered, size, barred))
    ends = [(registered.index(first), registered.index(last)) for first, last in found]
    held = [registered[number] for first, last in ends for number in range(first, last + 1)]
    assert set(chosen) <= set(held)
    assert not set(held) & set(barred)
    assert all(first in chosen and last in chosen for first, last in found)
    assert all(0 <= last - first < size for first, last in ends)
    assert all(last < first for (_, last), (first, _) in pairwise(ends)), "no shard is asked for twice"
