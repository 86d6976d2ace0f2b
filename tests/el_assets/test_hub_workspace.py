"""Documents from the hub through real runs: what a new commit makes stale, and what an outage leaves as it was."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from el_assets.corpus.assets import open_corpus_of
from el_assets.partitions import register_shards
from tests.conftest import Workspace
from tests.support.hub_server import FakeHub, fake_hub

A, B = "data/a.jsonl", "data/b.jsonl"
CARD = b"---\nlicense: cc-by-4.0\n---\n"


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text * 100}).encode() + b"\n" for text in texts)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        hub.commit("owner/pages", {"README.md": CARD, A: lines("one ", "two "), B: lines("three ")})
        yield hub


@pytest.fixture
def workspace(hub: FakeHub, new_workspace: Callable[..., Workspace]) -> Workspace:
    workspace = new_workspace(corpus="hf:owner/pages", hub_endpoint=hub.endpoint)
    assert register_shards(workspace.instance, open_corpus_of(workspace.loaded())).shards == [A, B]
    assert workspace.materialize("documents").success
    return workspace


def test_documents_carry_licence_and_commit(hub: FakeHub, workspace: Workspace) -> None:
    stored = workspace.tables.read("documents", A)
    assert stored.select("source", "license").unique().rows() == [("hf:owner/pages", "cc-by-4.0")]
    origin = {"source": "hf:owner/pages", "file": A, "revision": hub.heads["owner/pages", "main"]}
    assert workspace.tables.require_stamp("documents", A).facts["origin"] == origin


def test_a_new_commit_redoes_the_changed_file_only(hub: FakeHub, workspace: Workspace) -> None:
    before = workspace.files()
    hub.commit("owner/pages", {"README.md": CARD, A: lines("one ", "two "), B: lines("four ", "five ")})
    assert workspace.materialize("documents").success
    changed = {name for name, file in workspace.files().items() if before.get(name) != file}
    assert changed == {"tables/documents/data%2Fb.jsonl.parquet"}
    assert workspace.tables.read("documents", B).height == 2


def test_an_outage_fails_the_run_and_leaves_the_tables(
    hub: FakeHub, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    before = workspace.files()
    hub.commit("owner/pages", {"README.md": CARD, A: lines("six "), B: lines("seven ")})
    hub.fail(A, "503", times=1000)
    with pytest.raises(ConnectionError, match=r"'owner/pages' of .* cannot be reached"):
        workspace.materialize("documents")
    assert workspace.files() == before
