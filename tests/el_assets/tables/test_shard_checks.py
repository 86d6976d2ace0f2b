"""Records of the checks of shards, on an instance on disk."""

from collections.abc import Callable

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from el_assets.definitions import defs
from el_assets.tables.shard_checks import FAILED_TAG, failed_in_words, result
from tests.conftest import Workspace, library_documents

A, B, C = "a.jsonl", "b.jsonl", "c.jsonl"
CHECK = dg.AssetCheckKey(dg.AssetKey("context_chunks"), "chunks_equal_their_documents")


def test_nothing_found_is_passed() -> None:
    found = result({}, shards=3, remedy="Do it again")
    assert found.passed
    assert {name: value.value for name, value in found.metadata.items()} == {"shards_checked": 3, "problems": 0}
    assert found.description is None


def test_what_is_found_is_named_by_shard_with_the_remedy() -> None:
    found = result({"a": ["x is 1", "y is 2"], "b": ["z is 3"]}, shards=4, remedy="Do it again")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.ERROR
    assert found.description == "a: x is 1. Do it again"
    assert {name: value.value for name, value in found.metadata.items()} == {
        "shards_checked": 4,
        "problems": 3,
        "first_problems": ["a: x is 1", "a: y is 2", "b: z is 3"],
        "what_to_do": "Do it again",
    }


def test_shards_without_problems_do_not_fail() -> None:
    assert result({"a": [], "b": []}, shards=2, remedy="Do it again").passed


def test_many_problems_are_counted_and_the_first_shown() -> None:
    problems = {"a": [f"row {number}" for number in range(100)]}
    found = result(problems, shards=1, remedy="Do it again", severity=dg.AssetCheckSeverity.WARN)
    assert found.metadata["problems"].value == 100
    assert found.metadata["first_problems"].value == [f"a: row {number}" for number in range(20)]
    assert found.severity == dg.AssetCheckSeverity.WARN


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace]) -> Workspace:
    """Three shards with documents and chunks; a chunk of B does not hold its document's text."""
    workspace = new_workspace(chunk_tokens=96)
    for number, shard in enumerate((A, B, C)):
        workspace.write_shard(shard, library_documents(1, offset=number))
    workspace.register()
    workspace.materialize("documents", "context_chunks")
    stamp, chunks = workspace.tables.require_stamp("context_chunks", B), workspace.tables.read("context_chunks", B)
    workspace.tables.write(chunks.with_columns(text=pl.lit("rubbish")), stamp)
    return workspace


def statuses(workspace: Workspace, check: dg.AssetCheckKey = CHECK) -> dict[str | None, str]:
    """The latest result by shard, as the check's page shows it; None is the result over all of a run."""
    storage = workspace.instance.event_log_storage
    records = reversed(storage.get_asset_check_execution_history(check, limit=100))
    return {record.partition: record.status.value for record in records}


def failed_partitions(workspace: Workspace, asset: str) -> set[str]:
    """Shards that the asset's page shows with a red dot."""
    key = dg.AssetKey(asset)
    definition = defs.resolve_asset_graph().get(key).partitions_def
    assert definition is not None
    with partition_loading_context(dynamic_partitions_store=workspace.instance):
        cached = get_and_update_asset_status_cache_value(workspace.instance, key, definition)
        assert cached is not None
        return set(cached.deserialize_failed_partition_subsets(definition).get_partition_keys())


def test_a_run_over_a_range_gives_each_shard_its_result(workspace: Workspace) -> None:
    failed = workspace.run("build_index", raises=False)
    assert not failed.success
    assert statuses(workspace) == {A: "SUCCEEDED", B: "FAILED", C: "SUCCEEDED", None: "FAILED"}
    assert failed_partitions(workspace, "context_chunks") == {B}
    assert {event.step_key for event in failed.get_step_failure_events()} == {
        "context_chunks_chunks_equal_their_documents"
    }, "it is blocking: the index was not begun"
    made = {event.asset_key.to_user_string() for event in failed.get_asset_materialization_events()}
    assert made == {"documents", "context_chunks"}

    workspace.run("build_index", B, force=True)
    assert statuses(workspace) == {A: "SUCCEEDED", B: "SUCCEEDED", C: "SUCCEEDED", None: "FAILED"}
    assert failed_partitions(workspace, "context_chunks") == set()
    workspace.run("build_index")
    assert statuses(workspace)[None] == "SUCCEEDED"


def test_a_check_that_fails_and_does_not_block_is_named_by_a_tag_of_its_run(
    new_workspace: Callable[..., Workspace],
) -> None:
    """Its run is green in every list."""
    workspace = new_workspace()
    workspace.write_shard(A, library_documents(1))
    for shard in (B, C):
        (workspace.folder / "corpus" / shard).write_text("[1, 2]")
    workspace.register()
    workspace.materialize("documents")
    (run,) = workspace.instance.get_runs()
    assert run.is_success
    assert run.tags[FAILED_TAG] == f"documents:sources_are_readable: {B}, {C}"


def test_each_result_is_about_the_shards_latest_materialization(workspace: Workspace) -> None:
    """Otherwise Dagster takes it for one about an older table, and shows none."""
    workspace.run("build_index", raises=False)
    infos = workspace.instance.event_log_storage.get_asset_check_partition_info([CHECK], partition_keys=[A, B, C])
    assert {info.partition_key for info in infos} == {A, B, C}
    assert all(info.is_current and info.latest_target_materialization_storage_id for info in infos)


def test_checks_alone_look_at_every_shard_that_has_the_table(workspace: Workspace) -> None:
    """*Execute all* in the UI launches such a run: no shard is chosen."""
    workspace.instance.add_dynamic_partitions("corpus_shards", ["not made yet"])
    job = dg.define_asset_job("checks", selection=dg.AssetSelection.checks(CHECK))
    repository = dg.Definitions(
        assets=[asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition)],
        asset_checks=defs.asset_checks,
        jobs=[job],
        resources=workspace.definitions().resources,
        executor=dg.in_process_executor,
    )
    done = repository.resolve_job_def("checks").execute_in_process(
        instance=workspace.instance,
        run_config=workspace.launched(),
        raise_on_error=False,
    )
    assert not done.get_asset_materialization_events()
    assert statuses(workspace) == {A: "SUCCEEDED", B: "FAILED", C: "SUCCEEDED", None: "FAILED"}


def test_failed_checks_are_named_by_shard_and_many_are_counted() -> None:
    def failed(shard: str | None, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR) -> object:
        found = result({shard or "s0": ["x is 1"]}, shards=1, remedy="Do it again", severity=severity)
        return dg.AssetCheckEvaluation(
            asset_key=CHECK.asset_key,
            check_name=CHECK.name,
            passed=found.passed,
            severity=found.severity,
            description=found.description,
            partition=shard,
        )

    lines = failed_in_words([*(failed(f"s{number}") for number in range(5)), failed(None)])  # type: ignore[misc]
    name = "context_chunks: chunks_equal_their_documents"
    assert lines == [*(f"{name}: s{number}: x is 1. Do it again" for number in range(3)), f"{name}: and 2 more shards"]
    assert failed_in_words([failed("s0", dg.AssetCheckSeverity.WARN)]) == []  # type: ignore[list-item]
