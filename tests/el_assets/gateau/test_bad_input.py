"""Bad instruction samples through real runs: an error that names the value and the remedy, or a counted row that names
the sample."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from el_assets.parts import FRACTIONS
from el_resources.store.shard_tables import MissingTableError
from tests.conftest import Workspace, chat, failed_checks, library_samples, tiny_model

A, B, C = "a.jsonl", "b.jsonl.gz", "c.jsonl"
TOP_10, TOP_30, TOP_50 = FRACTIONS
WINDOW = 256
USER = {"role": "user", "content": "Context.\n\nQuestion?"}
ANSWER = {"role": "assistant", "content": "Answer."}
# Reason by sample; its id names what it lacks.
FLAWED: list[tuple[dict[str, Any], str]] = [
    ({"id": "no-role", "messages": [{"content": "Question?"}, ANSWER]}, "missing_role"),
    ({"id": "no-answer", "messages": [USER]}, "no_assistant_turn"),
    ({"id": "empty-answer", "messages": [USER, {"role": "assistant", "content": " \n"}]}, "empty_response"),
    ({"id": "number", "messages": [{"role": "user", "content": 7}, ANSWER]}, "content_not_text"),
    (chat("good", "Another context.", "The same id?", "Yes."), "duplicate_id"),
    (chat("long-answer", "Context.", "Count.", " ".join(map(str, range(300)))), "does_not_fit_window"),
]


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model"), max_position_embeddings=WINDOW))


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace], random_model: str) -> Workspace:
    return new_workspace(long_model=random_model, short_window=96, segment_tokens=64)


def test_flawed_samples_keep_their_reason_and_are_not_scored(workspace: Workspace) -> None:
    flawed = [sample for sample, _ in FLAWED]
    workspace.write_instructions(A, [chat("good", "Context.", "Question?", "Answer."), *flawed])
    workspace.register_instructions()
    assert failed_checks(workspace.run("score_samples")) == set()
    samples = workspace.tables.read("instruction_samples", A)
    assert samples["sample_id"].to_list() == ["good", *(sample["id"] for sample in flawed)]
    assert samples["set_aside_reason"].to_list() == [None, *(reason for _, reason in FLAWED)]
    assert samples["detail"].null_count() == 1
    detail = dict(samples.select("sample_id", "detail").iter_rows())["long-answer"]
    needed = samples.select(pl.sum_horizontal("n_instruction_tokens", "n_response_tokens")).to_series()[-1] + 2
    assert detail == f"instruction and response need {needed} tokens, the window is {WINDOW}"
    for asset in ("hmg_scores", "cam_scores"):
        assert workspace.tables.read(asset, A)["sample_id"].to_list() == ["good"]
    facts = workspace.tables.require_stamp("instruction_samples", A).facts
    assert facts["samples"] == 1
    assert facts["set_aside"] == {reason: 1 for _, reason in FLAWED}


def test_flawed_samples_without_an_id_are_named_by_their_place(workspace: Workspace) -> None:
    good = {"context": "Context.", "instruction": "Question?", "response": "Answer."}
    workspace.write_instructions(A, [good, {"messages": [USER]}, {"messages": [ANSWER]}])
    workspace.register_instructions()
    workspace.materialize("instruction_samples")
    samples = workspace.tables.read("instruction_samples", A)
    assert samples["sample_id"].to_list()[1:] == ["sample 2 of the shard", "sample 3 of the shard"]


def test_a_shard_without_a_single_good_sample_still_works(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(10))
    workspace.write_instructions(B, [{"id": "no-answer", "messages": [USER]}])
    workspace.register_instructions()
    assert failed_checks(workspace.run("score_samples")) == set()
    assert workspace.tables.read("hmg_scores", B).is_empty()
    assert failed_checks(workspace.run("select_samples")) == set()
    stamp = workspace.tables.require_stamp("influence_scores")
    assert (stamp.facts["shards"], stamp.facts["samples"]) == ([A, B], 10)


def test_a_pool_without_a_single_good_sample_says_what_its_rows_were_set_aside_for(workspace: Workspace) -> None:
    workspace.write_instructions(A, [{"id": "no-answer", "messages": [USER]}, {"messages": [{"content": "x"}]}])
    workspace.register_instructions()
    assert failed_checks(workspace.run("score_samples")) == set()
    with pytest.raises(
        ValueError,
        match=r"nothing to select from: all 2 samples were set aside: missing_role 1, no_assistant_turn 1; "
        r".*; the first, 'no-answer': the roles are: 'user'",
    ):
        workspace.run("select_samples")


def test_a_pool_whose_file_was_refused_repeats_why(workspace: Workspace) -> None:
    workspace.write_instructions(A, [{"id": "no-answer", "messages": [USER]}])
    workspace.write_instructions(B, [{"prompt": "Question?", "completion": "Answer."}])
    workspace.register_instructions()
    workspace.run("score_samples")
    with pytest.raises(
        ValueError,
        match=r"nothing to select from: the source could not be read: shard 'b\.jsonl\.gz' cannot be read from "
        r".*line 1 has 'prompt', 'completion'",
    ):
        workspace.run("select_samples")


def test_the_same_id_in_two_shards_is_two_samples(workspace: Workspace) -> None:
    for number, shard in enumerate((A, B)):
        samples = library_samples(5, offset=5 * number)
        workspace.write_instructions(shard, [{**sample, "id": str(n)} for n, sample in enumerate(samples)])
    workspace.register_instructions()
    workspace.run("score_samples")
    assert failed_checks(workspace.run("select_samples")) == set()
    influence = workspace.tables.read("influence_scores")
    assert influence.select("shard", "sample_id").n_unique() == influence.height == 10
    for shard, sample_id, messages in (
        workspace.tables.read("selected_subsets", TOP_50).select("shard", "sample_id", "messages").iter_rows()
    ):
        source = library_samples(5, offset=0 if shard == A else 5)[int(sample_id)]
        assert messages == source["messages"]


def test_subsets_of_a_small_pool_are_rounded_up_with_a_warning(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(6))
    workspace.register_instructions()
    workspace.run("score_samples")
    result = workspace.run("select_samples")
    assert failed_checks(result) == {"the_pool_is_large_enough"}
    (check,) = [c for c in result.get_asset_check_evaluations() if not c.passed]
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert (check.description or "").startswith("top_10_percent: a pool of 6 samples is smaller than 10, so the subset")
    sizes = [workspace.tables.read("selected_subsets", fraction).height for fraction in FRACTIONS]
    assert sizes == [1, 2, 3]


def test_a_subset_of_a_pool_that_has_shrunk_is_found(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(10))
    workspace.register_instructions()
    workspace.run("score_samples")
    workspace.run("select_samples")
    workspace.write_instructions(A, library_samples(2))
    workspace.run("score_samples")
    result = workspace.run("select_samples", TOP_30, TOP_30, raises=False)
    name = "subsets_are_nested_and_of_the_asked_size"
    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == name]
    assert not check.passed
    assert (check.description or "").startswith("top_50_percent: has 5 of 2 samples, not 1")


@pytest.mark.parametrize("form", ["pair", "pair_ntk"])
def test_a_pair_with_two_tokenizers_is_refused(workspace: Workspace, tmp_path: Path, form: str) -> None:
    other = tiny_model(tmp_path / "other", max_position_embeddings=96)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": {"type": "Lowercase"}}))
    workspace.write_instructions(A, library_samples(2))
    workspace.register_instructions()
    workspace.materialize("instruction_samples")
    before = workspace.files()
    with pytest.raises(ValueError, match=r"have different tokenizers.*homologous pair, or EL_HMG_FORM=one_model"):
        workspace.materialize("hmg_scores", hmg_form=form, short_model=str(other))
    assert workspace.files() == before


def test_a_corrupt_file_is_named_and_the_other_shards_go_on(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(10))
    workspace.write_instructions(B, library_samples(2, offset=10))
    whole = (workspace.folder / "instructions" / B).read_bytes()
    (workspace.folder / "instructions" / B).write_bytes(whole[: len(whole) // 2])
    workspace.register_instructions()
    result = workspace.run("score_samples")
    assert failed_checks(result) == {"samples_are_readable"}
    assert B in workspace.tables.require_stamp("instruction_samples", B).facts["unreadable"]
    assert workspace.tables.read("hmg_scores", A).height == 10
    assert workspace.run("select_samples").success
    assert workspace.tables.require_stamp("influence_scores").facts["samples"] == 10

    (workspace.folder / "instructions" / B).write_bytes(whole)
    assert failed_checks(workspace.run("score_samples")) == set()
    assert workspace.tables.read("hmg_scores", B).height == 2


def test_a_file_with_other_columns_lists_them(workspace: Workspace) -> None:
    workspace.write_instructions(A, [{"prompt": "Question?", "completion": "Answer."}])
    workspace.register_instructions()
    assert failed_checks(workspace.run("score_samples")) == {"samples_are_readable"}
    problem = workspace.tables.require_stamp("instruction_samples", A).facts["unreadable"]
    assert "'prompt', 'completion'" in problem


def test_nothing_is_ranked_or_selected_before_it_is_scored(workspace: Workspace) -> None:
    workspace.write_instructions(A, library_samples(2))
    workspace.register_instructions()
    with pytest.raises(MissingTableError, match=r"no shard .* has both hmg_scores and cam_scores; run job score"):
        workspace.run("select_samples")
    with pytest.raises(MissingTableError, match="materialize influence_scores for it first"):
        workspace.materialize("selected_subsets")
    with pytest.raises(MissingTableError, match="materialize instruction_samples for it first"):
        workspace.materialize("hmg_scores")


def test_text_in_other_scripts_and_special_tokens_spelled_out_are_text(workspace: Workspace) -> None:
    spelled = chat("spelled", "<s> 語 \u0000 🙂 é", "</s> ∑?", "<|endoftext|> да")
    workspace.write_instructions(C, [spelled, *library_samples(2)])
    workspace.register_instructions()
    assert failed_checks(workspace.run("score_samples")) == set()
    workspace.run("select_samples", TOP_50, TOP_50)
    assert workspace.tables.read("hmg_scores", C)["sample_id"].to_list()[0] == "spelled"
