import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import dagster as dg
import pytest

from el_assets.operations.failed_runs import name_lost_shards, shards_of_run
from tests.conftest import Workspace, library_documents

A, B = "a.jsonl", "b.jsonl"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Texts that were posted to the address that EL_FAILURE_WEBHOOK names."""
    texts: list[str] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Chat)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("EL_FAILURE_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
    yield texts
    server.shutdown()
    server.server_close()


def test_a_failed_run_names_its_shards_its_step_and_the_cause(
    new_workspace: Callable[..., Workspace], webhook: list[str]
) -> None:
    workspace = new_workspace()
    for number, shard in enumerate((A, B)):
        workspace.write_shard(shard, library_documents(1, offset=number))
    workspace.register()
    failed = workspace.run("build_sequences", raises=False)  # nothing was read before
    run = failed.dagster_run
    assert shards_of_run(run, workspace.instance) == [A, B]
    context = dg.build_run_status_sensor_context(
        "name_lost_shards",
        dagster_event=failed.get_run_failure_event(),
        dagster_instance=workspace.instance,
        dagster_run=workspace.instance.get_run_by_id(run.run_id),
    ).for_run_failure()
    name_lost_shards(context)
    messages = [entry.message for entry in workspace.instance.all_logs(run.run_id)]
    (message,) = [message for message in messages if message.startswith("build_sequences failed with 2 shards")]
    assert f"{A} to {B}, in entropy_maps: " in message
    assert f"table 'documents' has no partition '{A}'" in message and "materialize documents for it first" in message
    assert webhook == [message]
