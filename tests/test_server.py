"""`dagster dev` on the repository's own workspace: what the UI asks for, answered by a real server and daemon."""

from collections.abc import Iterator
from typing import Any

import pytest

from el_resources.shard_tables import ShardTables
from tests.conftest import library_documents, library_samples, write_json_lines
from tests.dagster_server import Server
from tests.el_assets.test_workspace import SMALL

pytestmark = pytest.mark.services

SHARDS = ["a.jsonl", "b.jsonl"]
FRACTIONS = ("top_10_percent", "top_30_percent", "top_50_percent")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store of two registered shards of each kind."""
    home = tmp_path_factory.mktemp("home")
    small = {f"EL_{name.upper()}": str(value) for name, value in SMALL.items()}
    server = Server(home, {**small, "EL_INSTRUCTIONS": f"jsonl:{home / 'instructions'}"})
    for number, name in enumerate(SHARDS):
        write_json_lines(server.home / "corpus" / name, library_documents(3, offset=3 * number))
        write_json_lines(server.home / "instructions" / name, library_samples(5, offset=5 * number))
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


def test_one_backfill_of_each_half_finishes_it(server: Server) -> None:
    """Nothing is left to launch: sequences and their report, scores, the ranking after them, subsets, their report."""
    before = len(server.finished_runs())
    said = server.command("backfill", "--select", "index,entropylong,gateau,reports")
    backfills = [line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith("backfill ")]
    assert len(backfills) == 2
    query = "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"

    def done() -> bool:
        statuses = [server.ask(query, id=backfill)["partitionBackfillOrError"]["status"] for backfill in backfills]
        assert not any("FAIL" in status for status in statuses), statuses
        return set(statuses) == {"COMPLETED_SUCCESS"}

    server.wait_for("the end of both backfills", done, seconds=900)
    tables = ShardTables(str(server.home / "store"))
    wanted = [(table, shard) for table in ("packed_sequences", "hmg_scores", "cam_scores") for shard in SHARDS]
    wanted += [("influence_scores", "all"), *(("selected_subsets", fraction) for fraction in FRACTIONS)]
    assert [one for one in wanted if not tables.exists(*one)] == []
    ranking = tables.require_stamp("influence_scores")
    assert sorted(ranking.facts["shards"]) == SHARDS, "it waited for all of them"
    for name in ("entropylong_report", "gateau_report"):
        assert (server.home / "store" / "reports" / f"{name}.html").is_file()
    assert {run["status"] for run in server.finished_runs()[: -before or None]} == {"SUCCESS"}
