"""The EntropyLong half through real Dagster runs: real models, real LanceDB, real Parquet, small corpora of real
text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from el_resources.models.model_files import resolve_model
from tests.conftest import SEQUENCE_ASSETS, Workspace, failed_checks, forwards, library_documents
from tests.support.small_settings import SMALL

# Small enough for seconds: few roots, anchors and candidates, short sequences.
A, B, C = "a.jsonl", "b.jsonl.gz", "c %1/ü.jsonl"


@pytest.fixture(scope="module")
def finished(new_module_workspace: Callable[..., Workspace]) -> Workspace:
    """Two shards, from documents to packed sequences."""
    workspace = new_module_workspace(**SMALL)
    workspace.write_shard(A, library_documents(6))
    workspace.write_shard(B, library_documents(6, offset=6))
    workspace.register()
    assert workspace.run("build_index").success
    assert workspace.run("build_sequences").success
    return workspace


def test_every_shard_fills_a_sequence_and_every_fact_holds(finished: Workspace) -> None:
    assert forwards(finished.run("build_index")) == 0
    again = finished.run("build_sequences")
    checked = {check.check_name for check in again.get_asset_check_evaluations()}
    assert {
        "sequences_are_full",
        "roots_are_whole_and_last",
        "segments_equal_their_text",
        "no_root_retrieves_itself",
    } <= checked
    assert failed_checks(again) <= {"verified_contexts_beat_random", "no_chunk_is_a_hub"}, "reported, not contracts"
    for shard in (A, B):
        packed = finished.tables.read("packed_sequences", shard)
        assert packed.height >= 1
        assert packed["token_ids"].list.len().unique().to_list() == [1000]


def test_a_second_run_scores_nothing_and_writes_nothing(finished: Workspace) -> None:
    before = finished.files()
    results = [finished.run("build_index"), finished.run("build_sequences")]
    assert [forwards(result) for result in results] == [0, 0]
    assert finished.files() == before
    events = results[1].get_asset_materialization_events()
    assert all(event.materialization.metadata["skipped"].value for event in events)


def test_stored_scores_equal_plain_transformers(finished: Workspace) -> None:
    """50 stored rows against one plain forward each: full logits, softmax, no batching, tokens from text and tables."""
    folder = resolve_model("reference:long")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def plain(context_ids: list[int], root_ids: list[int], anchor: int) -> tuple[float, float]:
        ids = [tokenizer.bos_token_id, *context_ids, *root_ids[:anchor]]
        with torch.inference_mode():
            log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), dim=-1)
        return float(-(log_p.exp() * log_p).sum()), float(-log_p[root_ids[anchor]])

    chunks = finished.tables.scan_many("context_chunks", [A, B]).select("chunk_id", "text").collect()
    texts = dict(chunks.iter_rows())
    roots = dict(finished.tables.scan_many("entropy_maps", [A, B]).select("doc_id", "token_ids").collect().iter_rows())
    rows = finished.tables.scan_many("context_scores", [A, B]).collect().sample(50, seed=1)
    assert rows["is_control"].n_unique() == 2
    separator = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    for row in rows.iter_rows(named=True):
        context = tokenizer(texts[row["chunk_id"]], add_special_tokens=False)["input_ids"]
        root, anchor = roots[row["doc_id"]], row["anchor"]
        before, after = plain([], root, anchor), plain(context + separator, root, anchor)
        assert before == pytest.approx((row["entropy_before_nats"], row["nll_before_nats"]), abs=1e-3)
        assert after == pytest.approx((row["entropy_after_nats"], row["nll_after_nats"]), abs=1e-3)
        assert row["reduction"] == pytest.approx((before[0] - after[0]) / before[0], abs=1e-3)


def test_two_alphas_are_refused_by_readers_and_the_odd_shard_is_redone(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**{**SMALL, "alpha": 1.5})
    workspace.write_shard(A, library_documents(4))
    workspace.write_shard(B, library_documents(4, offset=6))
    workspace.register()
    workspace.run("build_index")
    workspace.run("build_sequences", A)
    other = workspace.run("build_sequences", B, alpha=1.0)
    assert "verified_contexts_beat_random" in failed_checks(other), "what spans both shards cannot be said"
    with pytest.raises(ValueError, match=r"alpha is 1\.5 in 'a\.jsonl' and 1\.0 in 'b\.jsonl\.gz'"):
        workspace.tables.scan_many("entropy_maps", [A, B])
    before = workspace.files()
    assert forwards(workspace.run("build_sequences")) > 0
    changed = {name for name, file in workspace.files().items() if before.get(name) != file}
    redone = {f"tables/{asset}/{B}.parquet" for asset in (*SEQUENCE_ASSETS, "packing_leftovers")}
    assert changed <= redone
    assert f"tables/entropy_maps/{B}.parquet" in changed
    workspace.tables.scan_many("verified_pairs", [A, B])


def test_a_changed_epsilon_needs_no_forward(finished: Workspace) -> None:
    result = finished.run("build_sequences", epsilon=0.1)
    assert forwards(result) == 0
    assert finished.tables.require_stamp("verified_pairs", A).settings["epsilon"] == 0.1
    restored = finished.run("build_sequences")
    assert forwards(restored) == 0


def test_a_removed_document_leaves_tables_index_and_what_quoted_it(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SMALL)
    documents = library_documents(6)
    workspace.write_shard(A, library_documents(4, offset=6))
    workspace.write_shard(B, documents)
    workspace.register()
    workspace.run("build_index")
    workspace.run("build_sequences")
    quoted = workspace.tables.read("candidate_contexts", A).filter(pl.col("chunk_shard") == B)
    gone = quoted["chunk_id"][0].rpartition("@")[0]
    unchanged_scores = workspace.tables.read("context_scores", A).height

    workspace.write_shard(B, [document for document in documents if document["id"] != gone])
    workspace.run("build_index")
    assert gone not in workspace.tables.read("documents", B)["doc_id"]
    assert gone not in workspace.tables.read("context_chunks", B)["doc_id"]
    from el_assets.corpus.assets import context_store

    assert gone not in context_store(workspace.loaded()).open().chunk_ids()["doc_id"]
    result = workspace.run("build_sequences", A)
    assert not workspace.tables.read("candidate_contexts", A)["chunk_id"].str.starts_with(f"{gone}@").any()
    facts = workspace.tables.require_stamp("context_scores", A).facts
    assert facts["pairs_reused"] > 0, "only pairs never scored before cost a forward"
    assert forwards(result) == facts["units"] < unchanged_scores
    workspace.run("build_sequences")
    assert "quoted_documents_exist" not in failed_checks(workspace.run("build_sequences"))


def test_a_planted_passage_is_kept_and_copies_and_noise_are_not(new_workspace: Callable[..., Workspace]) -> None:
    passage = (
        "The Ostrava relay accepts exactly nine commands: mivak, tolpen, sarduck, wenzo, fibrak, ludomir, "
        "quessin, hartwold and jebroni. Every command is confirmed with its own number."
    )
    opening = (
        "This chapter tells how an operator starts the station in the morning. "
        "First the doors are opened and the lamps are lit. "
        "Then the log of the last night is read, and what is missing is asked for by telephone. "
    )
    root = opening + "After that the relay is tested with all its commands in their order. " + passage
    near_copy = root.replace("in the morning", "in the evening")
    source = "Manual of the relay station. " + passage + " Numbers above nine are rejected with an error."
    planted = [
        {"id": "root", "text": root},
        {"id": "near-copy", "text": near_copy},
        {"id": "manual", "text": source},
    ]
    workspace = new_workspace(
        **{
            **SMALL,
            "beats_controls": True,
            "epsilon": 0.4,
            "chunk_tokens": 96,
            "root_tokens_min": 120,
            "max_anchors": 0,
            "alpha": 0.3,
            "roots_per_shard": 0,
            "near_duplicate_containment": 0.8,
        }
    )
    workspace.write_shard("planted.jsonl", planted)
    workspace.write_shard("noise.jsonl", library_documents(6))
    workspace.register()
    workspace.run("build_index")
    workspace.run("build_sequences", "planted.jsonl")
    candidates = workspace.tables.read("candidate_contexts", "planted.jsonl").filter(pl.col("doc_id") == "root")
    documents = set(candidates["chunk_id"].str.split("@").list.first())
    assert "manual" in documents
    assert "root" not in documents, "own chunks are excluded"
    assert "near-copy" not in documents, "near-duplicates are excluded"
    facts = workspace.tables.require_stamp("candidate_contexts", "planted.jsonl").facts
    assert facts["excluded_own_chunks"] > 0
    assert facts["excluded_near_duplicates"] > 0
    kept = workspace.tables.read("verified_pairs", "planted.jsonl").filter(pl.col("doc_id") == "root")
    (manual,) = kept.filter(pl.col("chunk_id").str.starts_with("manual@")).iter_rows(named=True)
    assert manual["best_reduction"] > 0.6
    scores = workspace.tables.read("context_scores", "planted.jsonl")
    anchor = manual["anchors"][int(np.argmax(manual["reductions"]))]
    noise = scores.filter(
        pl.col("doc_id") == "root", pl.col("anchor") == anchor, ~pl.col("chunk_id").str.starts_with("manual@")
    )
    assert noise.height > 0
    assert noise["reduction"].max() < 0.4, "no other chunk passes where the passage does"


def test_roots_score_the_same_whatever_else_is_in_the_shard(
    finished: Workspace, new_workspace: Callable[..., Workspace]
) -> None:
    alone = new_workspace(**{**SMALL, "roots_per_shard": 0})
    stored = finished.tables.read("entropy_maps", A)
    first = stored["doc_id"][0]
    alone.write_shard(A, [d for d in library_documents(6) if d["id"] == first])
    alone.register()
    alone.run("build_index")
    alone.run("build_sequences", raises=False)
    (again,) = alone.tables.read("entropy_maps", A)["entropy_nats"]
    np.testing.assert_allclose(again.to_numpy(), stored["entropy_nats"][0].to_numpy(), atol=1e-3)


@pytest.mark.parametrize(
    "changes", [{"retriever": "full_text"}, {"retriever": "hybrid", "query_side": "before", "skip_tokens": 0}]
)
def test_another_search_fills_the_same_tables(
    finished: Workspace, new_workspace: Callable[..., Workspace], changes: dict[str, Any]
) -> None:
    workspace = new_workspace(**{**SMALL, **changes})
    workspace.write_shard(A, library_documents(6))
    workspace.register()
    workspace.run("build_index")
    result = workspace.run("build_sequences")
    assert result.success
    candidates = workspace.tables.read("candidate_contexts", A)
    assert candidates.schema == finished.tables.read("candidate_contexts", A).schema
    assert candidates.filter(~pl.col("is_control"))["similarity"].min() > 0
    recorded = workspace.tables.require_stamp("packed_sequences", A).settings
    assert {name: recorded.get(name) for name in changes if name != "skip_tokens"} == {
        name: value for name, value in changes.items() if name != "skip_tokens"
    }


def test_shard_names_may_hold_any_character(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SMALL)
    workspace.write_shard(C, library_documents(4))
    (shard,) = workspace.register()
    workspace.run("build_index")
    assert workspace.run("build_sequences").success
    assert workspace.tables.read("entropy_maps", shard).height > 0
    stored = [Path(name).name for name in workspace.files() if name.startswith("tables/entropy_maps")]
    assert len(stored) == 1


def test_the_same_id_in_two_shards_is_two_documents(new_workspace: Callable[..., Workspace]) -> None:
    """Files that number their documents from 0 may quote each other's."""
    workspace = new_workspace(**SMALL)
    for number, name in enumerate((A, B)):
        documents = library_documents(3, offset=3 * number)
        workspace.write_shard(name, [{**document, "id": str(n)} for n, document in enumerate(documents)])
    workspace.register()
    workspace.run("build_index")
    assert workspace.run("build_sequences").success
    candidates = workspace.tables.read("candidate_contexts", A)
    same_id = candidates.filter(pl.col("chunk_id").str.split("@").list.first() == pl.col("doc_id"))
    assert same_id["chunk_shard"].unique().to_list() == [B]
