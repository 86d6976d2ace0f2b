"""The GATEAU half through real Dagster runs: a file pool under a random model, the embedded pool under the reference
model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from el_assets.gateau.influence import roc_auc
from el_assets.parts import FRACTIONS
from el_resources.models.model_files import resolve_model
from el_resources.store.stamps import MixedSettingsError
from tests.conftest import Workspace, chat, failed_checks, forwards, library_documents, library_samples, tiny_model

A, B = "a.jsonl", "b.jsonl.gz"
TOP_10, TOP_30, TOP_50 = FRACTIONS
WINDOW = 256
# The long sample's context is all documents of 400 to 1,400 characters in one, far beyond the window.
NO_CONTEXT = chat("no-context", "", "What is a module?", "A file of Python code.")
TOO_LONG = chat(
    "too-long",
    "\n\n".join(document["text"] for document in library_documents(3)),
    "What is said first?",
    "Shared AIX support functions.",
)
SAMPLES_A = [*library_samples(8, offset=3), NO_CONTEXT, TOO_LONG]
SAMPLES_B = library_samples(4, offset=11)


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=WINDOW))


@pytest.fixture
def pool(new_workspace: Callable[..., Workspace], random_model: str) -> Workspace:
    """Two shards of chat samples, registered and not scored."""
    return new_pool(new_workspace, random_model)


@pytest.fixture(scope="module")
def finished(new_module_workspace: Callable[..., Workspace], random_model: str) -> Workspace:
    """The same, scored and selected."""
    workspace = new_pool(new_module_workspace, random_model)
    assert workspace.run("score_samples").success
    assert workspace.run("select_samples").success
    return workspace


def new_pool(new: Callable[..., Workspace], model: str) -> Workspace:
    workspace = new(long_model=model, short_window=96, segment_tokens=32)
    workspace.write_instructions(A, SAMPLES_A)
    workspace.write_instructions(B, SAMPLES_B)
    assert workspace.register_instructions() == [A, B]
    return workspace


def evaluated(result: dg.ExecuteInProcessResult) -> set[str]:
    return {check.check_name for check in result.get_asset_check_evaluations()}


# --- from files to subsets


def test_every_fact_holds(finished: Workspace) -> None:
    scored, selected = finished.run("score_samples"), finished.run("select_samples")
    assert evaluated(scored) == {
        "samples_are_readable",
        "rows_add_up",
        "conversations_are_unique_over_shards",
        "every_sample_is_guided",
        "guided_samples_have_finite_scores",
        "every_sample_has_awareness",
        "aware_samples_have_finite_scores",
        "attention_sums_to_one",
    }
    assert evaluated(selected) == {
        "ranks_are_a_permutation",
        "awareness_is_a_cosine",
        "far_samples_rank_above_the_others",
        "subsets_are_nested_and_of_the_asked_size",
        "the_pool_is_large_enough",
        "the_selection_is_current",
    }
    assert failed_checks(scored) | failed_checks(selected) == set()


def test_subsets_are_nested_and_hold_the_best_of_the_pool_in_order(finished: Workspace) -> None:
    influence = finished.tables.read("influence_scores")
    assert influence.height == 14
    assert influence["score"].is_sorted(descending=True)
    for fraction, size in ((TOP_10, 2), (TOP_30, 5), (TOP_50, 7)):
        subset = finished.tables.read("selected_subsets", fraction)
        best = influence.head(size)
        assert subset.select("shard", "sample_id", "rank").equals(best.select("shard", "sample_id", "rank"))


def test_selected_messages_are_those_of_the_source(finished: Workspace) -> None:
    source = {sample["id"]: sample["messages"] for sample in SAMPLES_A + SAMPLES_B}
    subset = finished.tables.read("selected_subsets", TOP_50)
    for sample_id, messages in subset.select("sample_id", "messages").iter_rows():
        assert messages == source[sample_id]


def test_samples_record_where_they_are_from(finished: Workspace) -> None:
    origin = finished.tables.require_stamp("instruction_samples", A).facts["origin"]
    assert origin["source"] == finished.settings["instructions"]
    assert origin["file"].endswith(f"instructions/{A}")


def test_a_cut_context_is_counted_and_an_empty_one_has_no_segments(finished: Workspace) -> None:
    samples = finished.tables.read("instruction_samples", A)
    hmg, cam = finished.tables.read("hmg_scores", A), finished.tables.read("cam_scores", A)
    joint = 1  # "\n\n" is one token
    needed = 1 + pl.sum_horizontal("n_context_tokens", "n_instruction_tokens", "n_response_tokens") + 2 * joint
    too_long = samples.with_columns(dropped=(needed - WINDOW).clip(0)).filter(pl.col("dropped") > 0)
    assert "too-long" in too_long["sample_id"]
    for sample_id, n_context, dropped in too_long.select("sample_id", "n_context_tokens", "dropped").iter_rows():
        row = hmg.row(by_predicate=pl.col("sample_id") == sample_id, named=True)
        assert row["n_dropped_context_tokens"] == dropped
        assert row["n_context_tokens"] == n_context - dropped
        lengths = cam.row(by_predicate=pl.col("sample_id") == sample_id, named=True)["segment_tokens"]
        assert sum(lengths) == n_context - dropped
        assert set(lengths[:-1]) == {32}
    facts = finished.tables.require_stamp("hmg_scores", A).facts
    assert facts["contexts_cut"] == too_long.height
    assert facts["context_tokens_dropped"] == too_long["dropped"].sum()

    bare = cam.row(by_predicate=pl.col("sample_id") == "no-context", named=True)
    assert (bare["segment_tokens"], bare["rest_attention"]) == ([], pytest.approx(1, abs=1e-6))
    influence = finished.tables.read("influence_scores").filter(pl.col("sample_id") == "no-context")
    assert influence.select("hmp", "cas").row(0) == (0, 0), "nothing to lose, and nothing to attend to"


def test_a_context_within_the_short_window_has_no_guidance_at_all(finished: Workspace) -> None:
    """Exactly none: a difference by rounding would be put in order by ranks."""
    hmg = finished.tables.scan_many("hmg_scores", [A, B]).collect()
    uncut = hmg.filter(pl.col("n_dropped_context_tokens_short") == 0)
    assert "no-context" in uncut["sample_id"]
    assert uncut["nll_short_nats"].equals(uncut["nll_long_nats"])
    assert uncut.height < hmg.height


def test_a_second_run_scores_nothing_and_writes_nothing(finished: Workspace) -> None:
    before = finished.files()
    results = [finished.run("score_samples"), finished.run("select_samples")]
    assert [forwards(result) for result in results] == [0, 0]
    assert finished.files() == before
    events = [event for result in results for event in result.get_asset_materialization_events()]
    assert len(events) == 3 * 2 + 1 + 3
    assert all(event.materialization.metadata["skipped"].value for event in events)


# --- changed settings


@pytest.mark.parametrize(
    "changes",
    [
        {"importance_sign": "negative_ppl", "cosine_normalisation": "softmax"},
        {"influence_alpha": 0.3, "influence_scale": "minmax", "hmp_normalisation": "zscore"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_needs_no_model_is_tuned_without_a_forward(finished: Workspace, changes: dict[str, Any]) -> None:
    before, scores = finished.files(), finished.tables.read("influence_scores")
    results = [finished.run("score_samples", **changes), finished.run("select_samples", **changes)]
    assert [forwards(result) for result in results] == [0, 0]
    changed = {name for name, file in finished.files().items() if before[name] != file}
    assert changed == {"tables/influence_scores/all.parquet"} | {
        f"tables/selected_subsets/{fraction}.parquet" for fraction in FRACTIONS
    }
    assert not finished.tables.read("influence_scores").equals(scores)
    finished.run("select_samples")
    assert finished.tables.read("influence_scores").equals(scores)


def test_both_ways_to_cut_a_context_keep_as_much_of_it(finished: Workspace, pool: Workspace) -> None:
    pool.run("score_samples", A, A, context_cut="middle")
    columns = ["sample_id", "n_context_tokens", "n_dropped_context_tokens", "nll_long_nats"]
    head, middle = (workspace.tables.read("hmg_scores", A, columns) for workspace in (finished, pool))
    assert head.drop("nll_long_nats").equals(middle.drop("nll_long_nats"))
    cut = head["n_dropped_context_tokens"].to_numpy() > 0
    difference = np.abs(head["nll_long_nats"].to_numpy() - middle["nll_long_nats"].to_numpy())
    assert difference[cut].min() > 1e-4, "they kept other tokens"
    assert difference[~cut].max() < 1e-4


def test_shards_scored_under_two_settings_are_not_ranked_together(pool: Workspace) -> None:
    pool.run("score_samples", A, A)
    pool.run("score_samples", B, B, segment_tokens=64)
    with pytest.raises(MixedSettingsError, match=r"segment_tokens is 32 in 'a\.jsonl' and 64 in 'b\.jsonl\.gz'"):
        pool.run("select_samples")
    assert not pool.tables.exists("influence_scores")


def test_guidance_and_awareness_under_two_settings_are_not_added(pool: Workspace) -> None:
    pool.run("score_samples", A, A)
    pool.materialize("cam_scores", partitions=[A], context_cut="middle")
    with pytest.raises(MixedSettingsError, match=r"context_cut is 'head' in hmg_scores and 'middle' in cam_scores"):
        pool.run("select_samples")


# --- a pool that grows and changes


def test_the_pool_is_what_has_been_scored(pool: Workspace) -> None:
    pool.run("score_samples", A, A)
    assert pool.run("select_samples").success
    first = pool.tables.require_stamp("influence_scores")
    assert (first.facts["shards"], first.facts["samples"]) == ([A], 10)
    assert pool.tables.read("selected_subsets", TOP_30).height == 3

    pool.run("score_samples")
    assert pool.run("select_samples").success
    second = pool.tables.require_stamp("influence_scores")
    assert (second.facts["shards"], second.facts["samples"]) == ([A, B], 14)
    assert pool.tables.read("selected_subsets", TOP_30).height == 5
    assert set(pool.tables.read("influence_scores")["shard"]) == {A, B}


def test_a_changed_sample_is_scored_again_in_its_shard_only(pool: Workspace) -> None:
    pool.run("score_samples")
    before = pool.files()
    changed = [{**SAMPLES_B[0], "messages": NO_CONTEXT["messages"]}, *SAMPLES_B[1:]]
    pool.write_instructions(B, changed)
    pool.run("score_samples")
    written = {name for name, file in pool.files().items() if before[name] != file}
    assert written == {f"tables/{asset}/{B}.parquet" for asset in ("instruction_samples", "hmg_scores", "cam_scores")}


def test_samples_that_left_since_scoring_are_never_selected_without_their_texts(pool: Workspace) -> None:
    pool.run("score_samples")
    pool.run("select_samples")
    pool.write_instructions(B, [{**sample, "id": f"new-{n}"} for n, sample in enumerate(SAMPLES_B)])
    pool.materialize("instruction_samples")
    with pytest.raises(ValueError, match=r"of b\.jsonl\.gz changed since they were scored; run job score_samples"):
        pool.run("select_samples")
    pool.materialize("hmg_scores", partitions=[B])
    with pytest.raises(ValueError, match=r"shard 'b\.jsonl\.gz' were made from different samples; run job score"):
        pool.run("select_samples")


# --- the embedded pool


@pytest.fixture(scope="module")
def short_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The long reference model with a window of 1,536: the pool is made to measure, and smaller costs less."""
    folder = tmp_path_factory.mktemp("models") / "long"
    shutil.copytree(resolve_model("reference:long"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1536}))
    return folder


def test_far_samples_of_the_embedded_pool_come_first(
    new_workspace: Callable[..., Workspace], short_reference: Path
) -> None:
    workspace = new_workspace(
        instructions="python-docs-questions:",
        long_model=str(short_reference),
        short_window=512,
        samples_per_kind=4,
        segment_tokens=512,
    )
    shards = workspace.register_instructions()
    scored = workspace.run("score_samples")
    selected = workspace.run("select_samples")
    assert failed_checks(scored) | failed_checks(selected) == set()
    samples = workspace.tables.scan_many("instruction_samples", shards).collect()
    assert samples["license"].unique().to_list() == ["PSF-2.0"]
    kinds = samples.select("shard", "sample_id", "evidence")
    assert dict(kinds["evidence"].value_counts().iter_rows()) == {"near": 4, "far": 4, "absent": 4}
    influence = workspace.tables.read("influence_scores").join(kinds, on=["shard", "sample_id"]).sort("rank")
    far = influence["evidence"].to_numpy() == "far"
    hmp = influence["hmp"].to_numpy()
    assert roc_auc(hmp[far], hmp[~far], seed=0)["auc"] > 0.9
    assert influence["evidence"].head(3).to_list() == ["far"] * 3
    assert workspace.tables.read("selected_subsets", TOP_30).height == 4
