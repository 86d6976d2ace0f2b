"""The daily schedules, evaluated against a real instance and store, and their requests executed."""

from collections.abc import Callable

import dagster as dg

from el_assets.definitions import defs
from tests.conftest import Workspace, library_documents, library_samples
from tests.support.ticks import asked_range, execute, follow_up, schedule_tick

SHARDS = ("a.jsonl", "b.jsonl", "c.jsonl")
SMALL = {"roots_per_shard": 1, "root_tokens_min": 64, "candidates_per_anchor": 2, "max_anchors": 2, "alpha": 0.5}


def test_schedules_ask_for_what_is_missing_and_then_for_nothing(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SMALL)
    for number, name in enumerate(SHARDS):
        workspace.write_shard(name, library_documents(2, offset=2 * number))
    workspace.register()
    (request,) = schedule_tick(workspace, "backfill_index").run_requests
    execute(workspace, "build_index", request)
    assert "all 3 registered shards are up to date" in (schedule_tick(workspace, "backfill_index").skip_message or "")

    workspace.run("build_sequences", SHARDS[1])
    (request,) = schedule_tick(workspace, "backfill_sequences").run_requests
    asked = (request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"])
    assert asked == (SHARDS[0], SHARDS[2]), "one range that spans the finished shard"
    finished = workspace.files()["tables/packed_sequences/b.jsonl.parquet"]
    execute(workspace, "build_sequences", request)
    assert workspace.files()["tables/packed_sequences/b.jsonl.parquet"] == finished
    assert not schedule_tick(workspace, "backfill_sequences").run_requests


def test_a_changed_file_is_asked_for_again(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SMALL)
    for number, name in enumerate(SHARDS):
        workspace.write_shard(name, library_documents(1, offset=number))
    workspace.register()
    workspace.run("build_index")
    workspace.write_shard(SHARDS[1], library_documents(1, offset=5))
    (request,) = schedule_tick(workspace, "backfill_index").run_requests
    asked = {value for tag, value in request.tags.items() if "partition_range" in tag}
    assert asked == {SHARDS[1]}


def test_sequences_follow_the_index_without_a_schedule(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SMALL)
    for number, name in enumerate(SHARDS[:2]):
        workspace.write_shard(name, library_documents(2, offset=2 * number))
    workspace.register()
    index = workspace.run("build_index").dagster_run
    (request,) = follow_up(workspace, "sequences_follow_index", index)
    assert asked_range(request) == SHARDS[:2]
    assert request.run_key == f"{index.run_id}:0", "the same success asks once"
    for job in ("build_sequences", "build_index"):
        running = workspace.instance.create_run_for_job(defs.resolve_job_def(job), status=dg.DagsterRunStatus.STARTED)
        assert follow_up(workspace, "sequences_follow_index", index) == [], f"{job} is under way"
        workspace.instance.report_run_canceled(running)

    # A shard that came while sequences were built is asked for after them; one that they left undone is not.
    first = workspace.run("build_sequences", SHARDS[0]).dagster_run
    (request,) = follow_up(workspace, "sequences_follow_index", first)
    assert asked_range(request) == (SHARDS[1], SHARDS[1])
    execute(workspace, "build_sequences", request)
    workspace.tables.remove("packed_sequences", SHARDS[0])
    assert follow_up(workspace, "sequences_follow_index", first) == []


def test_selection_follows_the_scores(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace()
    workspace.write_instructions(SHARDS[0], library_samples(10))
    workspace.register_instructions()
    scored = workspace.run("score_samples").dagster_run
    (request,) = follow_up(workspace, "selection_follows_scores", scored)
    execute(workspace, "select_samples", request)
    assert follow_up(workspace, "selection_follows_scores", scored) == []


def test_schedules_are_off_until_switched_on() -> None:
    for name in ("backfill_index", "backfill_sequences", "backfill_samples", "backfill_selection"):
        schedule = defs.resolve_schedule_def(name)
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        assert schedule.description
    for name in ("sequences_follow_index", "selection_follows_scores"):
        assert defs.resolve_sensor_def(name).default_status == dg.DefaultSensorStatus.STOPPED
