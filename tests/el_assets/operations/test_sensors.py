import json
import os
import time
from collections.abc import Callable
from typing import ClassVar

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from el_assets.definitions import defs
from el_assets.operations.removal import removal_of
from el_assets.operations.sensors import cursor_of, find_changes
from el_assets.partitions import registered_shards
from el_resources.store.stamps import Stamp
from tests.conftest import Workspace
from tests.support.hub_server import fake_hub
from tests.support.ticks import execute, follow, sensor_tick

A, B, C, D = (f"{name}.jsonl" for name in "abcd")


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace]) -> Workspace:
    """Four registered shards."""
    workspace = new_workspace()
    for name in (A, B, C, D):
        workspace.write_shard(name, [{"text": f"text of {name}"}])
    assert follow(workspace).skip_message == f"4 new: {A}, {B}, {C}, {D}"
    return workspace


def remove_files(workspace: Workspace, *names: str) -> None:
    for name in names:
        (workspace.folder / "corpus" / name).unlink()


class TestChanges:
    BEFORE: ClassVar = {"a": "1", "b": "2", "c": "3"}

    def test_by_hand(self) -> None:
        now = {"a": "1", "b": "other", "d": "4"}
        found = find_changes(now, ["a", "b", "c"], cursor_of(self.BEFORE))
        assert (found.came, found.changed, found.went) == (["d"], ["b"], ["c"])
        assert found.in_words() == "1 new: d; 1 changed: b; 1 gone: c"

    def test_nothing_changed(self) -> None:
        found = find_changes(self.BEFORE, ["c", "a", "b"], cursor_of(self.BEFORE))
        assert found.in_words() == "nothing changed in 3 shards"

    def test_a_shard_that_was_registered_elsewhere_is_not_changed(self) -> None:
        found = find_changes({**self.BEFORE, "d": "4"}, ["a", "b", "c", "d"], cursor_of(self.BEFORE))
        assert (found.came, found.changed) == ([], [])

    def test_without_a_cursor_nothing_is_called_changed(self) -> None:
        found = find_changes(self.BEFORE, ["a"], None)
        assert (found.came, found.changed, found.went) == (["b", "c"], [], [])

    @given(st.dictionaries(st.text(), st.text()), st.dictionaries(st.text(), st.text()))
    def test_every_shard_is_accounted_for(self, before: dict[str, str], now: dict[str, str]) -> None:
        found = find_changes(now, list(before), cursor_of(before))
        assert set(found.came) == now.keys() - before.keys()
        assert set(found.went) == before.keys() - now.keys()
        assert set(found.changed) == {shard for shard in now.keys() & before.keys() if now[shard] != before[shard]}

    def test_the_cursor_of_5000_shards_is_small_json(self) -> None:
        cursor = cursor_of({f"data/CC-MAIN/{number:05d}.parquet": str(number) for number in range(5000)})
        assert json.loads(cursor)["version"] == 1
        assert len(cursor) < 54_000


def test_evaluating_a_tick_for_a_look_changes_nothing(workspace: Workspace) -> None:
    workspace.tables.write(*small_table(A))
    remove_files(workspace, A)
    workspace.write_shard("e.jsonl", [{"text": "new"}])
    before = workspace.files()
    answer = sensor_tick(workspace)
    assert len(answer.run_requests) == len(answer.dynamic_partitions_requests) == 1
    assert registered_shards(workspace.instance) == [A, B, C, D]
    assert workspace.files() == before


def small_table(shard: str) -> tuple[pl.DataFrame, Stamp]:
    """A table of two rows in place of a shard's documents, and its stamp."""
    return pl.DataFrame({"doc_id": ["1", "2"]}), Stamp(asset="documents", partition=shard, recipe="r")


def test_content_is_compared_not_times_or_sizes(workspace: Workspace) -> None:
    cursor = sensor_tick(workspace).cursor
    file = workspace.folder / "corpus" / B
    os.utime(file, ns=(0, 0))
    assert sensor_tick(workspace, cursor=cursor).skip_message == "nothing changed in 4 shards"
    file.write_bytes(file.read_bytes().replace(b"text of", b"text by"))
    answer = sensor_tick(workspace, cursor=cursor)
    assert answer.skip_message == f"1 changed: {B}"
    assert sensor_tick(workspace, cursor=answer.cursor).skip_message == "nothing changed in 4 shards"


def test_half_of_the_shards_may_go(workspace: Workspace) -> None:
    remove_files(workspace, A, B)
    assert follow(workspace).run_requests
    assert registered_shards(workspace.instance) == [C, D]


def test_more_than_half_go_only_where_the_setting_lets_them(workspace: Workspace) -> None:
    for shard in (A, B, C):
        workspace.tables.write(*small_table(shard))
    remove_files(workspace, A, B, C)
    workspace.write_shard("e.jsonl", [{"text": "new"}])
    answer = follow(workspace)
    assert not answer.run_requests
    assert "No table is removed: 3 of 4 registered shards are gone" in answer.skip_message
    assert "EL_REMOVE_MANY_SHARDS=true" in answer.skip_message
    assert registered_shards(workspace.instance) == [A, B, C, D, "e.jsonl"], "what came is registered all the same"
    assert workspace.tables.exists("documents", A)
    assert follow(workspace, remove_many_shards=True).run_requests
    assert registered_shards(workspace.instance) == [D, "e.jsonl"]
    assert not workspace.tables.exists("documents", A)


def test_shards_that_another_source_left_go_and_do_not_count(workspace: Workspace) -> None:
    """Five ghosts next to four shards, of which two went: nothing was ever made of the ghosts in this store."""
    ghosts = [f"python-docs-{number}" for number in range(5)]
    workspace.instance.add_dynamic_partitions("corpus_shards", ghosts)
    for shard in (A, B, C, D):
        workspace.tables.write(*small_table(shard))
    remove_files(workspace, A, B)
    answer = follow(workspace)
    assert registered_shards(workspace.instance) == [C, D]
    (removal,) = answer.run_requests
    assert removal.run_config["ops"]["remove_tables"]["config"]["shards"] == [A, B, *ghosts]


def test_ghosts_go_though_too_much_is_gone_beside_them(workspace: Workspace) -> None:
    workspace.instance.add_dynamic_partitions("corpus_shards", ["ghost"])
    for shard in (A, B, C):
        workspace.tables.write(*small_table(shard))
    remove_files(workspace, A, B, C)
    answer = follow(workspace)
    assert registered_shards(workspace.instance) == [A, B, C, D]
    assert all(workspace.tables.exists("documents", shard) for shard in (A, B, C))
    (removal,) = answer.run_requests
    assert removal.run_config["ops"]["remove_tables"]["config"]["shards"] == ["ghost"]


def test_a_file_that_became_a_pointer_keeps_its_registration_and_tables(workspace: Workspace) -> None:
    """A checkout without its large files: the file is there, and what was made of it cost hours."""
    workspace.materialize("documents")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 99\n"
    (workspace.folder / "corpus" / B).write_text(pointer)
    answer = sensor_tick(workspace)
    assert not answer.run_requests
    assert f"{B} is no longer a shard, and keeps its tables: a Git LFS pointer" in str(answer.skip_message)
    assert workspace.register() == [A, B, C, D]
    assert workspace.tables.exists("documents", B)


def test_an_empty_source_fails_the_tick(workspace: Workspace) -> None:
    remove_files(workspace, A, B, C, D)
    with pytest.raises(FileNotFoundError, match="no file below"):
        sensor_tick(workspace, remove_many_shards=True)
    assert registered_shards(workspace.instance) == [A, B, C, D]


def test_an_outage_fails_the_tick_and_the_next_one_goes_on(
    new_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    files = {"README.md": b"# card\n", **{f"data/{name}": b'{"text": "x"}\n' for name in (A, B)}}
    with fake_hub() as hub:
        hub.commit("owner/pages", files)
        workspace = new_workspace(corpus="hf:owner/pages", hub_endpoint=hub.endpoint)
        cursor = follow(workspace).cursor
        hub.fail("", "503", times=1000)
        with pytest.raises(ConnectionError, match=r"'owner/pages' of .* cannot be reached"):
            sensor_tick(workspace, cursor=cursor, remove_many_shards=True)
        assert registered_shards(workspace.instance) == [f"data/{A}", f"data/{B}"]
    with fake_hub() as hub:
        hub.commit("owner/pages", {**files, f"data/{B}": b'{"text": "y"}\n'})
        answer = sensor_tick(workspace, cursor=cursor, hub_endpoint=hub.endpoint)
        assert answer.skip_message == f"1 changed: data/{B}"


def test_a_removal_leaves_what_the_source_has(workspace: Workspace) -> None:
    workspace.tables.write(*small_table(A))
    execute(workspace, "remove_shards", removal_of("corpus", [A, "never there"]))
    assert registered_shards(workspace.instance) == [A, B, C, D]
    assert workspace.tables.exists("documents", A)


def test_a_removal_under_way_is_not_asked_for_twice(workspace: Workspace) -> None:
    remove_files(workspace, A)
    run = workspace.instance.create_run_for_job(
        defs.resolve_job_def("remove_shards"),
        status=dg.DagsterRunStatus.STARTED,
        run_config=removal_of("corpus", [A]).run_config,
    )
    assert not sensor_tick(workspace).run_requests
    workspace.instance.report_run_failed(run)
    assert sensor_tick(workspace).run_requests, "a removal that failed is tried again"


def test_sensors_are_off_and_say_what_they_do() -> None:
    for name in ("follow_corpus", "follow_instructions"):
        sensor = defs.resolve_sensor_def(name)
        assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
        assert sensor.minimum_interval_seconds == 300
        assert "registers shards" in (sensor.description or "")
