"""Bad input through real runs: the error names the value and the remedy, and nothing that was there is lost."""

import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from el_assets.operations.staleness import Inventory
from el_assets.sources import KINDS
from el_resources.sources.opening import open_corpus
from tests.conftest import SEQUENCE_ASSETS, Workspace, failed_checks, library_documents, tiny_model

A = "a.jsonl"
SMALL = {"roots_per_shard": 2, "root_tokens_min": 64, "candidates_per_anchor": 2, "max_anchors": 2, "alpha": 0.5}


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace]) -> Workspace:
    made = new_workspace(**SMALL)
    made.write_shard(A, library_documents(3))
    made.register()
    return made


def test_candidates_need_an_index(workspace: Workspace) -> None:
    workspace.materialize("documents", "context_chunks", "entropy_maps")
    with pytest.raises(ValueError, match="never built"):
        workspace.materialize("candidate_contexts")


def test_a_step_needs_the_table_before_it(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match=r"table .documents. has no partition .a\.jsonl..*materialize documents"):
        workspace.materialize("entropy_maps")


def test_an_index_needs_chunks(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="materialize context_chunks first"):
        workspace.materialize("retrieval_index")


def test_a_shard_must_be_registered(workspace: Workspace) -> None:
    with pytest.raises(Exception, match="nope"):
        workspace.run("build_index", "nope")


def test_a_store_must_be_writable(workspace: Workspace) -> None:
    blocked = workspace.folder / "a-file"
    blocked.write_text("in the way")
    with pytest.raises(ValueError, match=r"store '.*a-file' is a file.*EL_STORE"):
        workspace.materialize("documents", store=str(blocked))
    assert blocked.read_text() == "in the way"


def test_scores_of_two_models_are_never_mixed(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("build_index")
    workspace.run("build_sequences")
    before = workspace.files()
    other = tiny_model(tmp_path / "tiny", vocab_size=8192)
    with pytest.raises(ValueError, match=r"context_scores of shard .a\.jsonl. would mix two models"):
        workspace.materialize("context_scores", long_model=str(other))
    assert workspace.files() == before
    source = open_corpus(workspace.settings["corpus"])
    under_other, under_own = (
        Inventory(settings, source, [A], KINDS["corpus"].rules).unfinished(SEQUENCE_ASSETS)
        for settings in (workspace.loaded(long_model=str(other)), workspace.loaded())
    )
    assert (under_other, under_own) == ([A], [])


def test_tokens_outside_the_models_vocabulary_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    small = tiny_model(tmp_path / "small", vocab_size=64)
    workspace.materialize("documents")
    with pytest.raises(ValueError, match="64"):
        workspace.materialize("entropy_maps", long_model=str(small))
    assert not workspace.tables.exists("entropy_maps", A)


def test_vectors_of_two_encoders_are_never_compared(workspace: Workspace, tmp_path: Path) -> None:
    workspace.run("build_index")
    workspace.materialize("entropy_maps")
    folder = tmp_path / "other-encoder"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    with pytest.raises(ValueError, match=r"chunks of shard 'a.jsonl' were encoded by another encoder.*build_index"):
        workspace.materialize("candidate_contexts", encoder=f"sentence-transformers:{folder}")


def test_a_model_without_weights_is_named(workspace: Workspace, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="empty"):
        workspace.materialize("documents", "context_chunks", long_model=str(empty))


def test_a_parquet_without_text_lists_its_columns(workspace: Workspace) -> None:
    pl.DataFrame({"body": ["one"], "id": ["1"]}).write_parquet(workspace.folder / "corpus" / "x.parquet")
    source = f"parquet:{workspace.folder / 'corpus'}"
    workspace.settings["corpus"] = source
    workspace.register()
    assert failed_checks(workspace.materialize("documents")) == {"sources_are_readable"}
    problem = workspace.tables.require_stamp("documents", "x.parquet").facts["unreadable"]
    assert re.search(r"no column 'text'; it has body, id; .*EL_TEXT_COLUMN", problem)
    workspace.materialize("documents", text_column="body")
    assert workspace.tables.read("documents", "x.parquet")["text"].to_list() == ["one"]
