"""Attention that does not reach everything, and attention that cannot be watched, on the way to cam_scores."""

from collections.abc import Callable
from pathlib import Path

import pytest

from el_assets.tables.recipes import Cookbook
from el_resources.models.causal_lm import CausalLM
from el_resources.scoring.engine import ScoringEngine
from el_resources.sources.opening import open_corpus
from tests.conftest import Workspace, failed_checks, tiny_model
from tests.support.gemma_models import GEMMA_2, GEMMA_3, with_pool

NewWorkspace = Callable[..., Workspace]
A = "a.jsonl"


def test_layers_that_do_not_reach_a_segment_do_not_count(new_workspace: NewWorkspace, tmp_path: Path) -> None:
    workspace = with_pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_3)), segment_tokens=16))
    assert failed_checks(workspace.run("score_samples")) == set()
    stamp = workspace.tables.require_stamp("cam_scores", A)
    assert stamp.facts["layer_windows"] == [64, None, 64]
    assert set(stamp.facts["segments_by_layers"]) == {"1", "3"}
    assert stamp.facts["layer_sum_error"] < 1e-6
    assert stamp.made_from["attention_layers"] == "those that reach a segment"
    guided = workspace.tables.require_stamp("hmg_scores", A).facts
    assert (guided["window_tokens"], guided["short_window_tokens"]) == (400, 100)


def test_models_without_windows_are_drafted_as_before(new_workspace: NewWorkspace) -> None:
    workspace = with_pool(new_workspace())
    workspace.materialize("instruction_samples")
    settings = workspace.loaded()
    draft = Cookbook(settings, workspace.tables, open_corpus(settings.corpus)).draft("cam_scores", A)
    assert "attention_layers" not in draft.made_from


def test_a_model_that_cannot_be_watched_is_refused_before_it_is_loaded(
    new_workspace: NewWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path / "gemma", GEMMA_2)
    workspace = with_pool(new_workspace(long_model=str(folder)))
    workspace.materialize("instruction_samples")
    monkeypatch.setattr(CausalLM, "engine", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="cannot be watched: its attention has capped scores; set EL_CAM=false"):
        workspace.run("score_samples")
    assert not workspace.tables.exists("hmg_scores", A)


@pytest.mark.filterwarnings("ignore:.*is read in padded batches")
def test_what_no_config_says_is_refused_before_the_first_sample_is_scored(
    new_workspace: NewWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("el_assets.gateau.steps.attention_is_watchable", lambda config: "")
    monkeypatch.setattr(ScoringEngine, "score", lambda *_, **__: pytest.fail("a sample was scored"))
    workspace = with_pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_2))))
    with pytest.raises(ValueError, match="cannot be watched: its attention has capped scores; set EL_CAM=false"):
        workspace.run("score_samples")
