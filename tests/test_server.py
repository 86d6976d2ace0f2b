"""`dagster dev` on the repository's own workspace: what the UI asks for, answered by a real server and daemon."""

from collections.abc import Iterator
from typing import Any

import pytest

from el_resources.shard_tables import ShardTables
from tests.conftest import library_documents, write_json_lines
from tests.dagster_server import Server

pytestmark = pytest.mark.services

SHARDS = ["a.jsonl", "b.jsonl"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store of two registered shards."""
    server = Server(tmp_path_factory.mktemp("home"))
    for number, name in enumerate(SHARDS):
        write_json_lines(server.home / "corpus" / name, library_documents(3, offset=3 * number))
    assert "a.jsonl" in server.command("register")
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_the_ui_is_served_every_asset_with_its_description(server: Server) -> None:
    query = "{ assetNodes { assetKey { path } groupName description isPartitioned } }"
    nodes = {node["assetKey"]["path"][-1]: node for node in server.ask(query)["assetNodes"]}
    assert {"documents", "retrieval_index", "packed_sequences", "long_model", "text_encoder"} <= set(nodes)
    assert all(node["description"] for node in nodes.values())
    assert nodes["packed_sequences"]["isPartitioned"]
    assert not nodes["retrieval_index"]["isPartitioned"]


def test_a_backfill_over_two_shards_runs_to_its_end(server: Server) -> None:
    """What the UI's dialog sends; both shards land in one run."""
    launched = server.ask(
        """mutation ($params: LaunchBackfillParams!) {
             launchPartitionBackfill(backfillParams: $params) {
               __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        params={
            "assetSelection": [{"path": ["documents"]}, {"path": ["context_chunks"]}],
            "partitionNames": SHARDS,
            "tags": [],
        },
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    status = (
        "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
    )

    def done() -> dict[str, Any] | None:
        backfill: dict[str, Any] = server.ask(status, id=launched["backfillId"])["partitionBackfillOrError"]
        assert "FAIL" not in backfill["status"], backfill
        return backfill if backfill["status"] == "COMPLETED_SUCCESS" else None

    server.wait_for("the backfill", done, seconds=240)
    tables = ShardTables(str(server.home / "store"))
    assert all(tables.exists("context_chunks", shard) for shard in SHARDS)
    runs = server.ask("{ runsOrError { ... on Runs { results { status } } } }")["runsOrError"]["results"]
    assert [run["status"] for run in runs] == ["SUCCESS"], "two shards, one run"


def test_a_backfill_of_the_subsets_knows_what_a_fraction_reads(server: Server) -> None:
    """Their fractions depend on shards of another kind; the daemon must not look for a shard called like a fraction."""
    query = """query ($params: AssetBackfillPreviewParams!) {
                 assetBackfillPreview(params: $params) { assetKey { path } partitions { partitionKeys } } }"""
    chosen = {"assetSelection": [{"path": ["selected_subsets"]}], "partitionNames": ["top_10_percent"]}
    (preview,) = server.ask(query, params=chosen)["assetBackfillPreview"]
    assert preview["partitions"]["partitionKeys"] == ["top_10_percent"]
    launched = server.ask(
        """mutation ($params: LaunchBackfillParams!) {
             launchPartitionBackfill(backfillParams: $params) {
               __typename ... on LaunchBackfillSuccess { backfillId } } }""",
        params={**chosen, "tags": []},
    )["launchPartitionBackfill"]
    status = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
                  ... on PartitionBackfill { status error { message } } } }"""

    def ended() -> dict[str, Any] | None:
        backfill: dict[str, Any] = server.ask(status, id=launched["backfillId"])["partitionBackfillOrError"]
        return None if backfill["status"] == "REQUESTED" else backfill

    # Nothing was scored here, so its run fails in words of ours; the backfill itself comes as far as a run.
    backfill = server.wait_for("the backfill", ended, seconds=240)
    assert backfill["error"] is None, backfill
    assert [run["status"] for run in server.finished_runs()].count("FAILURE") == 1
