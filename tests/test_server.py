"""Requests of the UI, answered by a real server and daemon on the repository's own workspace."""

import json
import signal
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from el_resources.store.shard_tables import ShardTables
from tests.conftest import library_documents, library_samples, write_json_lines
from tests.support.dagster_server import Server
from tests.support.small_settings import SMALL

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
    """Send what the UI's dialog sends; both shards are in one run."""
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


# --- pages of other sites


MUTATION = """mutation { launchPipelineExecution(executionParams: {mode: "default", runConfigData: {},
    selector: {repositoryLocationName: "entropylong", repositoryName: "__repository__", pipelineName: "observe_models"}
  }) { __typename } }"""
EVIL = "http://evil.example"


def send(server: Server, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    """Status and text of a request with these headers, as any program or browser can make it."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{server.port}", "Content-Length": str(len(body)), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_requests_that_other_sites_can_send_launch_nothing(server: Server) -> None:
    runs = "{ runsOrError { ... on Runs { count } } }"
    before, body = server.ask(runs), json.dumps({"query": MUTATION})
    by_get = f"/graphql?query={quote(MUTATION)}"
    attempts = [
        send(server, "GET", by_get),
        send(server, "GET", by_get, Origin=EVIL),
        send(server, "HEAD", by_get),
        send(server, "POST", by_get, Content_Type="text/plain", Origin=EVIL),
        send(server, "POST", by_get, Content_Type="application/x-www-form-urlencoded"),
        send(server, "POST", by_get),
        send(server, "POST", "/graphql", body, Content_Type="text/plain; x=application/json", Origin=EVIL),
        send(server, "POST", "/graphql", body, Content_Type="text/plain; x=application/json"),
        send(server, "POST", "/graphql", MUTATION, Content_Type="application/graphql"),
        send(server, "POST", "/graphql", body, Content_Type="application/json", Origin=EVIL),
        send(server, "POST", "/graphql", body, Content_Type="application/json", Origin="null"),
        send(server, "POST", "/graphql", body, Content_Type="application/json", Host="evil.example"),
        send(server, "POST", "/graphql", body, Content_Type="application/json", Host=f"evil.example:{server.port}"),
        send(server, "POST", "/report_asset_materialization/documents", Content_Type="text/plain", Origin=EVIL),
        send(server, "GET", "/", Host="evil.example"),
    ]
    assert {status for status, _ in attempts} == {403}, attempts
    assert server.ask(runs) == before
    preflight = send(server, "OPTIONS", "/graphql", Origin=EVIL, Access_Control_Request_Method="POST")
    assert preflight[0] == 403
    own = {"Content_Type": "application/json", "Origin": server.url}
    assert "LaunchRunSuccess" in send(server, "POST", "/graphql", body, **own)[1], "the UI's own page launches it"


def test_a_websocket_of_another_site_is_not_opened_and_no_websocket_changes_anything(server: Server) -> None:
    runs = "{ runsOrError { ... on Runs { count } } }"
    before, address = server.ask(runs), f"{server.url.replace('http', 'ws', 1)}/graphql"
    ours = {"subprotocols": ["graphql-ws"], "open_timeout": 30}
    for headers in ({"origin": EVIL}, {"origin": "null"}, {"additional_headers": {"Host": "evil.example"}}):
        with pytest.raises(InvalidStatus, match="HTTP 403"), connect(address, **ours, **headers):
            pass
    with connect(address, **ours, origin=server.url) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(timeout=30)) == {"type": "connection_ack"}
        query = "subscription { locationStateChangeEvents { event { message } } }"
        socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": query}}))
        socket.send(json.dumps({"type": "start", "id": "2", "payload": {"query": MUTATION}}))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=30)
    assert server.ask(runs) == before


def test_ctrl_c_stops_everything_that_was_started(server: Server) -> None:
    assert server.process is not None
    started = psutil.Process(server.process.pid).children(recursive=True)
    assert len(started) >= 3, "the daemon, the code server and its own server"
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=90) == 0
    assert psutil.wait_procs(started, timeout=30)[1] == []
    assert "Traceback" not in (server.home / "server.log").read_text()
