"""A day of a corpus that grows, changes and shrinks, and one of a pool: real ticks on an instance on disk, and the runs
that they ask for."""

from collections.abc import Callable

import dagster as dg

from el_assets.corpus.assets import context_store
from el_assets.partitions import instruction_shards, registered_shards
from el_resources.store.pinned_index import PinnedIndex
from tests.conftest import SEQUENCE_ASSETS, Workspace, forwards, library_documents, library_samples
from tests.support.small_settings import SMALL
from tests.support.ticks import asked_range, backfill, follow, schedule_tick

A, B, C, D, E = (f"{name}.jsonl" for name in "abcde")
# Few chunks are quoted, so that one old shard quotes what goes and one does not.
SETTINGS = {**SMALL, "roots_per_shard": 2, "controls_per_root": 0, "sequence_tokens": 600}
CORPUS_ASSETS = ("documents", "context_chunks")
CORPUS_SCHEDULES = ("backfill_index", "backfill_sequences")


def restarted(workspace: Workspace) -> Workspace:
    """The same storage, opened by a new instance, as another process would."""
    instance = dg.DagsterInstance.local_temp(
        str(workspace.folder / "dagster"), overrides={"telemetry": {"enabled": False}}
    )
    return Workspace(workspace.folder, instance, workspace.settings)


def rewritten(before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]], asset: str) -> set[str]:
    """Shards whose table of an asset was written or removed."""
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return {name.split("/")[2].removesuffix(".parquet") for name in changed if name.startswith(f"tables/{asset}/")}


def index_of(workspace: Workspace) -> PinnedIndex:
    return context_store(workspace.loaded()).open()


def first_day(workspace: Workspace) -> str:
    """Four shards come and are finished. Returns the sensor's cursor."""
    for number, name in enumerate((A, B, C, D)):
        workspace.write_shard(name, library_documents(3, offset=3 * number))
    morning = follow(workspace)
    assert morning.skip_message == f"4 new: {A}, {B}, {C}, {D}"
    assert registered_shards(workspace.instance) == [A, B, C, D]
    for schedule in CORPUS_SCHEDULES:
        (request,) = schedule_tick(workspace, schedule).run_requests
        assert asked_range(request) == (A, D)
        backfill(workspace, schedule)
        assert "up to date" in schedule_tick(workspace, schedule).skip_message
    assert follow(workspace, cursor=morning.cursor).skip_message == "nothing changed in 4 shards"
    assert set(index_of(workspace).shard_fingerprints()) == {A, B, C, D}
    return morning.cursor


def sensor_removes_what_went(workspace: Workspace, cursor: str) -> str:
    """D went, and its tables and registration with it. Returns the sensor's cursor."""
    before = workspace.files()
    answer = follow(workspace, cursor=cursor)
    (removal,) = answer.run_requests
    assert removal.run_config["ops"]["remove_tables"]["config"] == {"kind": "corpus", "shards": [D]}
    assert registered_shards(workspace.instance) == [A, B, C, E]
    after = workspace.files()
    for asset in (*CORPUS_ASSETS, *SEQUENCE_ASSETS, "packing_leftovers"):
        assert rewritten(before, after, asset) == {D}
        assert not workspace.tables.exists(asset, D)
    return answer.cursor


def schedule_indexes_what_changed(workspace: Workspace) -> None:
    """Documents and chunks of B and E are made, and rows of A and C stay as they are."""
    before, held_before = workspace.files(), index_of(workspace).shard_fingerprints()
    assert "build_index" in schedule_tick(workspace, "backfill_sequences").skip_message, "the index still holds D"
    (request,) = schedule_tick(workspace, "backfill_index").run_requests
    assert asked_range(request) == (B, E), "one range, over C"
    backfill(workspace, "backfill_index")
    after, held = workspace.files(), index_of(workspace).shard_fingerprints()
    for asset in CORPUS_ASSETS:
        assert rewritten(before, after, asset) == {B, E}
    for asset in SEQUENCE_ASSETS:
        assert rewritten(before, after, asset) == set()
    assert set(held) == {A, B, C, E}
    assert {shard for shard, fingerprint in held.items() if held_before.get(shard) == fingerprint} == {A, C}


def quoting_what_went(workspace: Workspace) -> set[str]:
    """Old shards with candidates that left the index."""
    left = set(index_of(workspace).chunk_ids()["chunk_id"])
    return {s for s in (A, C) if set(workspace.tables.read("candidate_contexts", s)["chunk_id"]) - left}


def schedule_finishes(workspace: Workspace, quoting: set[str]) -> None:
    """B and E are made anew, and old shards from candidates on, only if they quoted what went."""
    before = workspace.files()
    (result,) = backfill(workspace, "backfill_sequences")
    after = workspace.files()
    assert rewritten(before, after, "entropy_maps") == {B, E}
    for asset in SEQUENCE_ASSETS[1:]:
        assert rewritten(before, after, asset) == {B, E} | quoting
    for shard in quoting:
        assert workspace.tables.require_stamp("context_scores", shard).facts["pairs_reused"] > 0
    scored = [workspace.tables.require_stamp("context_scores", s).facts["units"] for s in {B, E} | quoting]
    roots = [workspace.tables.require_stamp("entropy_maps", s).facts["rows"] for s in (B, E)]
    assert forwards(result) == sum(scored) + sum(roots)


def nothing_is_left_to_ask_for(workspace: Workspace, cursor: str) -> None:
    before = workspace.files()
    quiet = follow(workspace, cursor=cursor)
    assert (quiet.skip_message, quiet.cursor) == ("nothing changed in 4 shards", cursor)
    assert all("up to date" in schedule_tick(workspace, name).skip_message for name in CORPUS_SCHEDULES)
    assert workspace.files() == before


def test_a_day_of_a_corpus(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SETTINGS)
    cursor = first_day(workspace)

    # The next: one shard comes, one changes, one goes. The daemon restarts between all ticks.
    workspace.write_shard(E, library_documents(3, offset=12))
    workspace.write_shard(B, library_documents(2, offset=3))
    (workspace.folder / "corpus" / D).unlink()
    workspace = restarted(workspace)
    cursor = sensor_removes_what_went(workspace, cursor)
    workspace = restarted(workspace)
    schedule_indexes_what_changed(workspace)
    quoting = quoting_what_went(workspace)
    assert quoting == {A}
    workspace = restarted(workspace)
    schedule_finishes(workspace, quoting)
    nothing_is_left_to_ask_for(workspace, cursor)
    nothing_is_left_to_ask_for(restarted(workspace), cursor)


def test_a_removed_shard_alone_leaves_the_index(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SETTINGS)
    for number, name in enumerate((A, B)):
        workspace.write_shard(name, library_documents(2, offset=2 * number))
    follow(workspace)
    backfill(workspace, "backfill_index")
    (workspace.folder / "corpus" / A).unlink()
    follow(workspace)
    (request,) = schedule_tick(workspace, "backfill_index").run_requests
    assert request.asset_selection == [dg.AssetKey("retrieval_index")]
    (result,) = backfill(workspace, "backfill_index")
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert made == {"retrieval_index"}
    assert set(index_of(workspace).shard_fingerprints()) == {B}
    assert "all 1 registered shards are up to date" in schedule_tick(workspace, "backfill_index").skip_message


def test_a_day_of_a_pool(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace()
    for number, name in enumerate((A, B, C)):
        workspace.write_instructions(name, library_samples(5, offset=5 * number))
    first = follow(workspace, "follow_instructions")
    assert "0 registered shards are scored" in schedule_tick(workspace, "backfill_selection").skip_message
    for schedule in ("backfill_samples", "backfill_selection"):
        assert len(backfill(workspace, schedule)) == 1
        assert "up to date" in schedule_tick(workspace, schedule).skip_message
    before = workspace.files()

    workspace.write_instructions(D, library_samples(5, offset=15))
    workspace.write_instructions(B, library_samples(6, offset=20))
    (workspace.folder / "instructions" / C).unlink()
    workspace = restarted(workspace)
    second = follow(workspace, "follow_instructions", first.cursor)
    assert registered_shards(workspace.instance, instruction_shards) == [A, B, D]
    assert "wait for score_samples" in schedule_tick(workspace, "backfill_selection").skip_message
    (request,) = schedule_tick(workspace, "backfill_samples").run_requests
    assert asked_range(request) == (B, D)
    backfill(workspace, "backfill_samples")
    after = workspace.files()
    for asset in ("instruction_samples", "hmg_scores", "cam_scores"):
        assert rewritten(before, after, asset) == {B, C, D}
    (selection,) = backfill(workspace, "backfill_selection")
    assert forwards(selection) == 0
    assert workspace.tables.require_stamp("influence_scores").facts["shards"] == [A, B, D]
    assert workspace.tables.read("influence_scores")["shard"].unique().sort().to_list() == [A, B, D]
    assert all(
        "up to date" in schedule_tick(workspace, s).skip_message for s in ("backfill_samples", "backfill_selection")
    )
    quiet = follow(workspace, "follow_instructions", second.cursor)
    assert quiet.skip_message == "nothing changed in 3 shards"
