"""`dagster dev` on the repository's own workspace: what the UI asks for, answered by a real server and daemon."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from el_resources.shard_tables import ShardTables
from tests.conftest import library_documents, write_json_lines

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[1]
SHARDS = ["a.jsonl", "b.jsonl"]


class Server:
    """A running `dagster dev` with a store of two registered shards."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "EL_STORE": str(home / "store"),
            "EL_CORPUS": f"jsonl:{home / 'corpus'}",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "dagster"), "dev", "-w", str(ROOT / "workspace.yaml")]
        with (self.home / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "-h", "127.0.0.1", "-p", str(self.port)],
                cwd=self.home,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=60)

    def ask(self, query: str, **variables: Any) -> Any:
        """Data of a GraphQL query."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def wait_for(self, what: str, condition: Any, seconds: float) -> Any:
        """The condition's first true value; the server's log where none comes in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    return found
            except (URLError, ConnectionError):
                pass
            time.sleep(0.5)
        raise AssertionError(f"{what} did not happen: {(self.home / 'server.log').read_text()[-3000:]}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "dagster.yaml", home)
    for number, name in enumerate(SHARDS):
        write_json_lines(home / "corpus" / name, library_documents(3, offset=3 * number))
    server = Server(home)
    registered = subprocess.run(
        [sys.executable, "-m", "el_assets", "register"],
        cwd=home,
        env=server.environment,
        capture_output=True,
        check=True,
    )
    assert b"a.jsonl" in registered.stdout
    server.start()
    try:
        server.wait_for("the first page", lambda: server.ask("{ version }"), seconds=120)
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
