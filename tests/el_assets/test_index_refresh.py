"""A newer index: finished shards stay valid, and a refresh retrieves from it and scores only pairs never scored."""

from collections.abc import Callable

import polars as pl

from tests.conftest import Workspace, forwards, library_documents
from tests.support.small_settings import SMALL
from tests.support.ticks import schedule_tick

A, B = "a.jsonl", "b.jsonl"
SETTINGS = {**SMALL, "roots_per_shard": 3, "candidates_per_anchor": 3, "sequence_tokens": 600}
UNIT = ["doc_id", "chunk_hash"]


def test_a_refresh_pays_only_for_pairs_never_scored(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SETTINGS)
    workspace.write_shard(A, library_documents(5))
    workspace.register()
    workspace.run("build_index")
    workspace.run("build_sequences")
    scores = workspace.tables.read("context_scores", A)
    first_tag = workspace.tables.require_stamp("candidate_contexts", A).pinned["index_tag"]

    workspace.write_shard(B, library_documents(5, offset=5))
    workspace.register()
    workspace.run("build_index", B)
    before = workspace.files()
    assert forwards(workspace.run("build_sequences", A)) == 0
    assert workspace.files() == before, "a newer index leaves a finished shard valid"

    refreshed = workspace.run("build_sequences", A, refresh_candidates=True)
    stamp = workspace.tables.require_stamp("context_scores", A)
    assert workspace.tables.require_stamp("candidate_contexts", A).pinned["index_tag"] != first_tag
    candidates = workspace.tables.read("candidate_contexts", A)
    assert B in candidates["chunk_shard"].to_list(), "the newer index offers the new shard's chunks"
    pairs = [*UNIT, "anchor"]
    new = candidates.select(pairs).join(scores.select(pairs), on=pairs, how="anti")
    assert 0 < new.height < candidates.height
    assert forwards(refreshed) == stamp.facts["units"] == new.select(UNIT).n_unique()
    assert stamp.facts["pairs_reused"] == candidates.height - new.height
    again = workspace.tables.read("context_scores", A).join(scores, on=pairs, how="inner", suffix="_before")
    assert again.filter(pl.col("entropy_after_nats") != pl.col("entropy_after_nats_before")).is_empty()

    assert forwards(workspace.run("build_sequences", A, refresh_candidates=True)) == 0, "there is no newer build"


def test_a_schedule_asks_for_older_candidates_only_where_the_setting_does(
    new_workspace: Callable[..., Workspace],
) -> None:
    workspace = new_workspace(**{**SETTINGS, "roots_per_shard": 1, "max_anchors": 1})
    workspace.write_shard(A, library_documents(3))
    workspace.register()
    workspace.run("build_index")
    workspace.run("build_sequences")
    workspace.write_shard(B, library_documents(3, offset=5))
    workspace.register()
    workspace.run("build_index")
    workspace.run("build_sequences", B)
    assert "up to date" in schedule_tick(workspace, "backfill_sequences").skip_message
    (request,) = schedule_tick(workspace, "backfill_sequences", refresh_candidates=True).run_requests
    assert {value for tag, value in request.tags.items() if "partition_range" in tag} == {A}
