"""Changes between runs as the UI shows them: ticks on an instance on disk, their events recorded as the daemon does."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from el_assets.definitions import defs
from el_assets.tables.shown_versions import shown_version
from el_resources.settings import Settings
from el_resources.sources import shard_files
from el_resources.sources.file_listing import list_files
from tests.conftest import Workspace, library_samples
from tests.support.ticks import sensor_tick

A, B, C = "a.jsonl", "b.jsonl", "c.jsonl"
SENSOR = "tell_what_changed"


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace]) -> Workspace:
    """Two shards of the corpus whose documents are read, and a pool of one that is not."""
    workspace = new_workspace(text_column="text")
    for name in (A, B):
        workspace.write_shard(name, [{"text": f"text of {name}"}])
    workspace.write_instructions(A, library_samples(1))
    workspace.register()
    workspace.register_instructions()
    workspace.materialize("documents")
    return workspace


def tick(workspace: Workspace, cursor: str | None = None, **changes: Any) -> Any:
    """A tick, with what it tells recorded."""
    answer = sensor_tick(workspace, SENSOR, cursor, **changes)
    for event in answer.asset_events:
        workspace.instance.report_runless_asset_event(event)
    return answer


def told(answer: Any) -> list[str]:
    """Descriptions of a tick's events, each after the asset that shows it."""
    return [f"{event.asset_key.to_user_string()}: {event.description}" for event in answer.asset_events]


def test_what_is_missing_is_told_once(workspace: Workspace) -> None:
    first = tick(workspace)
    assert told(first) == [
        f"packed_sequences: context_chunks: missing: {A}, {B}",
        f"selected_subsets: instruction_samples: missing: {A}",
    ]
    assert all(event.severity == dg.AssetCheckSeverity.WARN for event in first.asset_events)
    assert told(tick(workspace, first.cursor)) == []


def test_a_changed_setting_is_told_without_a_run(workspace: Workspace) -> None:
    workspace.materialize("context_chunks", chunk_tokens=64)
    cursor = tick(workspace, chunk_tokens=64).cursor
    changed = tick(workspace, cursor, chunk_tokens=32)
    (event,) = changed.asset_events
    assert event.asset_check_key == dg.AssetCheckKey(dg.AssetKey("packed_sequences"), "every_shard_is_current")
    assert event.description == f"context_chunks: stale: setting chunk_tokens was 64, is 32: {A}, {B}"
    history = workspace.instance.event_log_storage.get_asset_check_execution_history(event.asset_check_key, limit=1)
    assert [record.status.value for record in history] == ["FAILED"]


def test_files_that_came_changed_and_went_show_on_the_source(workspace: Workspace) -> None:
    cursor = tick(workspace).cursor
    workspace.write_shard(B, [{"text": "another text"}])
    workspace.write_shard(C, [{"text": "new"}])
    (workspace.folder / "corpus" / A).unlink()
    answer = tick(workspace, cursor)
    assert told(answer)[0] == f"source_corpus: 1 new: {C}; 1 changed: {B}; 1 gone: {A}"
    (record,) = workspace.instance.fetch_observations(dg.AssetKey("source_corpus"), limit=5).records
    observed = record.asset_observation
    assert observed is not None
    assert {name: observed.metadata[f"shards_{name}"].value for name in ("came", "changed", "went")} == {
        "came": [C],
        "changed": [B],
        "went": [A],
    }
    result = answer.asset_events[1]
    assert f"documents: stale: source changed: {B}" in result.metadata["not_done"].value
    assert told(tick(workspace, answer.cursor)) == [], "told once"


def test_a_run_is_noticed(workspace: Workspace) -> None:
    cursor = tick(workspace).cursor
    workspace.materialize("context_chunks")
    (text,) = told(tick(workspace, cursor))
    assert text == "packed_sequences: retrieval_index: missing: all"


def test_a_source_that_cannot_be_listed_is_told_as_a_warning(workspace: Workspace) -> None:
    cursor = tick(workspace).cursor
    for file in (workspace.folder / "corpus").iterdir():
        file.unlink()
    answer = tick(workspace, cursor)
    (text,) = told(answer)
    assert "packed_sequences: " in text and "no file below" in text
    workspace.write_shard(A, [{"text": f"text of {A}"}])
    workspace.write_shard(B, [{"text": f"text of {B}"}])
    back = tick(workspace, answer.cursor)
    assert told(back) == [f"packed_sequences: context_chunks: missing: {A}, {B}"], "no file is called new"


def test_the_sensor_is_on_and_asks_for_nothing() -> None:
    sensor = defs.resolve_sensor_def(SENSOR)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert not sensor.has_jobs


@pytest.mark.parametrize(
    ("change", "unsynced"),
    [
        ({"epsilon": 0.3}, {"verified_pairs", "packed_sequences"}),
        ({"influence_alpha": 0.7}, {"influence_scores", "selected_subsets"}),
        ({"segment_tokens": 64}, {"cam_scores", "influence_scores", "selected_subsets"}),
        ({"device": "cpu", "store": "elsewhere", "shards_per_run": 3}, set()),
        ({"short_model": "some/model"}, {"hmg_scores", "influence_scores", "selected_subsets"}),
    ],
)
def test_a_setting_changes_the_shown_version_of_what_depends_on_it(change: dict[str, Any], unsynced: set[str]) -> None:
    before, after = Settings.load({}, hmg_form="pair"), Settings.load({}, hmg_form="pair", **change)
    names = [spec.key.to_user_string() for spec in defs.resolve_all_asset_specs() if "-" in (spec.code_version or "")]
    assert len(names) >= 13
    assert {name for name in names if shown_version(name, before) != shown_version(name, after)} == unsynced


def test_a_run_records_the_version_of_the_settings_that_it_had(workspace: Workspace) -> None:
    workspace.materialize("documents", partitions=[B], text_column="text", force=True)
    (record,) = workspace.instance.fetch_materializations(dg.AssetKey("documents"), limit=1).records
    materialization = record.asset_materialization
    assert materialization is not None and materialization.tags is not None
    assert materialization.tags["dagster/code_version"] == shown_version("documents", workspace.loaded())
    assert materialization.tags["dagster/code_version"] != shown_version("documents", Settings.load({}))


def test_a_look_lists_each_source_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []

    def counted(filesystem: Any, uri: str, *rest: Any) -> Any:
        listed.append(uri)
        return list_files(filesystem, uri, *rest)

    monkeypatch.setattr(shard_files, "list_files", counted)
    assert told(tick(workspace))
    assert sorted(listed) == sorted([workspace.settings["corpus"], workspace.settings["instructions"]])
