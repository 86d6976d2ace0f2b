"""Two sources in one workspace through real runs: whose documents become roots, what packed segments say of them."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from el_assets.corpus.assets import open_corpus_of
from tests.conftest import Workspace, failed_checks, forwards, library_documents, write_json_lines
from tests.support.small_settings import SMALL

CARD = """---
license: odc-by
configs:
- config_name: sample
  data_files:
  - split: train
    path: sample/*
---
"""
WEB, BOOKS = "sample/sample/0.parquet", "books/b.jsonl"


def corpus(workspace: Workspace, books: str = "roots=no weight=1") -> str:
    return f"hf:{workspace.folder}/web/sample + jsonl:{workspace.folder}/books [{books}]"


@pytest.fixture(scope="module")
def mixed(new_module_workspace: Callable[..., Workspace]) -> Workspace:
    """Pages in the hub's layout whose card has a licence, and books with licences of their own for contexts only."""
    workspace = new_module_workspace(**SMALL)
    (workspace.folder / "web" / "sample").mkdir(parents=True)
    (workspace.folder / "web" / "README.md").write_text(CARD)
    pq.write_table(pa.Table.from_pylist(library_documents(6)), workspace.folder / "web" / "sample" / "0.parquet")
    books = [{**document, "license": "CC0"} for document in library_documents(6, offset=6)]
    write_json_lines(workspace.folder / "books" / "b.jsonl", books)
    workspace.settings["corpus"] = corpus(workspace)
    assert workspace.register() == [WEB, BOOKS]
    assert workspace.run("build_index").success
    result = workspace.run("build_sequences")
    assert result.success
    assert failed_checks(result) <= {"verified_contexts_beat_random", "no_chunk_is_a_hub"}, "reported, not contracts"
    return workspace


def test_roots_come_from_one_source_and_contexts_from_both(mixed: Workspace) -> None:
    assert mixed.tables.read("entropy_maps", WEB).height > 0
    assert mixed.tables.read("entropy_maps", BOOKS).is_empty()
    assert mixed.tables.read("packed_sequences", BOOKS).is_empty()
    candidates = mixed.tables.read("candidate_contexts", WEB)
    assert set(candidates["chunk_shard"]) == {WEB, BOOKS}


def test_rows_and_packed_segments_say_whose_they_are(mixed: Workspace) -> None:
    of_shard: dict[str, tuple[str, str]] = {
        WEB: (f"hf:{mixed.folder}/web/sample", "odc-by"),
        BOOKS: (f"jsonl:{mixed.folder}/books", "CC0"),
    }
    for shard, origin in of_shard.items():
        assert mixed.tables.read("documents", shard).select("source", "license").unique().row(0) == origin
        assert mixed.tables.require_stamp("documents", shard).facts["origin"]["source"] == origin[0]
    segments = mixed.tables.read("packed_sequences", WEB)["segments"].explode().struct.unnest()
    roots, contexts = (segments.filter(kind=kind) for kind in ("root", "context"))
    assert set(roots.select("source", "license").iter_rows()) == {of_shard[WEB]}
    found: set[Any] = set(contexts.select("chunk_shard", "source", "license").iter_rows())
    assert found <= {(shard, *origin) for shard, origin in of_shard.items()}
    assert BOOKS in {shard for shard, _, _ in found}
    joints = segments.filter(~pl.col("kind").is_in(["root", "context"]))
    assert joints["source"].is_null().all()


def test_offering_roots_later_scores_them_and_rewrites_no_document(mixed: Workspace) -> None:
    before = mixed.files()
    offered = corpus(mixed, "weight=1.0")
    assert forwards(mixed.run("build_index", corpus=offered)) == 0
    assert mixed.files() == before, "documents, chunks and index do not depend on it"
    assert forwards(mixed.run("build_sequences", BOOKS, corpus=offered)) > 0
    assert mixed.tables.read("entropy_maps", BOOKS).height > 0
    changed = {name for name, file in mixed.files().items() if before.get(name) != file}
    assert {name.partition("books")[2] for name in changed} == {"%2Fb.jsonl.parquet"}


def test_a_budget_of_tokens_is_counted_by_the_scorer(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SMALL)
    for name in ("a", "b"):
        write_json_lines(workspace.folder / name / f"{name}.jsonl", library_documents(6, offset=6 * (name == "b")))
    workspace.settings["corpus"] = (
        f"jsonl:{workspace.folder}/a [name=a tokens=1000] + jsonl:{workspace.folder}/b [name=b documents=2]"
    )
    with pytest.raises(ValueError, match="nothing to count by"):
        workspace.register()
    source = open_corpus_of(workspace.loaded())
    assert source.shards() == ["a/a.jsonl", "b/b.jsonl"]
    counter = source.counter  # type: ignore[attr-defined]
    taken = [counter.count_tokens(document.text) for document in source.documents("a/a.jsonl")]
    everything = [counter.count_tokens(document["text"]) for document in library_documents(6)]
    assert taken == everything[: len(taken)]
    assert sum(taken) <= 1000 < sum(everything[: len(taken) + 1])
    assert len(list(source.documents("b/b.jsonl"))) == 2
