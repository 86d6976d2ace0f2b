"""Steps of a shard: progress that ends at its total, and the settings that a step may read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from el_assets.catalogue import RECIPES
from el_assets.tables.recipes import settings_seen
from el_assets.tables.shard_assets import with_seen_settings
from el_resources.configuration.launching import settings_at_launch
from el_resources.scoring import ScoringEngine
from el_resources.settings import Settings
from tests.conftest import Workspace, library_documents, library_samples, tiny_model


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """By task: its total, then every advance."""
    found: dict[str, list[int]] = {}

    @contextmanager
    def record(context: Any, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        found[what] = [total]
        yield found[what].append

    monkeypatch.setattr("el_assets.tables.shard_assets.progress", record)
    return found


def test_what_models_read_is_counted_to_its_total(
    new_workspace: Callable[..., Workspace], shown: dict[str, list[int]], tmp_path: Path
) -> None:
    workspace = new_workspace(
        long_model=str(tiny_model(tmp_path / "model")),
        short_window=128,
        root_tokens_min=64,
        roots_per_shard=0,
        alpha=0.0,
        max_anchors=8,
    )
    workspace.write_shard("a.jsonl", library_documents(12))
    workspace.write_instructions("a.jsonl", library_samples(12))
    workspace.register()
    workspace.register_instructions()
    workspace.run("build_index")
    workspace.run("build_sequences", raises=False)
    workspace.run("score_samples")
    of_models = {what.split()[0]: counts for what, counts in shown.items() if what.split()[0] != "retrieve"}
    assert set(of_models) == {"entropy", "verify", "guidance", "awareness"}
    for what, (total, *advances) in of_models.items():
        assert len(advances) > 1, "more than one batch"
        assert min(advances) > 0, what
        assert sum(advances) == total, what


@pytest.mark.parametrize("error", [ValueError("the GPU fell off"), KeyboardInterrupt()])
def test_a_run_that_ends_while_it_scores_a_shard_leaves_the_ones_before_it_whole(
    new_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """One shard after another: the second has no table, the third is not begun, and costs are each shard's own."""
    workspace = new_workspace(root_tokens_min=64, roots_per_shard=2)
    shards = ["a.jsonl", "b.jsonl", "c.jsonl"]
    for number, shard in enumerate(shards):
        workspace.write_shard(shard, library_documents(2, offset=2 * number))
    workspace.register()
    workspace.materialize("documents")
    scored: list[int] = []
    score = ScoringEngine.score

    def break_off(self: ScoringEngine, sequences: Any, **more: Any) -> Any:
        scored.append(sum(len(ids) + 1 for ids in sequences))
        found = score(self, sequences, **more)
        if len(scored) == 2:
            raise error
        return found

    monkeypatch.setattr(ScoringEngine, "score", break_off)
    with pytest.raises((ValueError, KeyboardInterrupt, dg.DagsterExecutionInterruptedError)):
        workspace.materialize("entropy_maps")
    assert [workspace.tables.exists("entropy_maps", shard) for shard in shards] == [True, False, False]
    assert list(Path(workspace.settings["store"]).rglob("*.tmp*")) == []
    assert len(scored) == 2
    workspace.materialize("entropy_maps")
    facts = [workspace.tables.require_stamp("entropy_maps", shard).facts for shard in shards]
    # A sequence is read with BOS and without its last token.
    assert [found["tokens"] for found in facts] == [scored[0] - 2, scored[2] - 2, scored[3] - 2]
    assert [found["forwards"] for found in facts] == [2, 2, 2]


def test_a_step_that_reads_a_setting_beside_its_recipe_fails_and_is_named() -> None:
    @dg.asset
    @with_seen_settings("verified_pairs")
    def reader(settings: Settings) -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"epsilon": settings.epsilon, "alpha": settings.alpha})

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [reader],
            instance=instance,
            resources={"settings": settings_at_launch(Settings.load({}))},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        (failure,) = result.get_step_failure_events()
    cause = failure.step_failure_data.error.cause  # type: ignore[union-attr]
    assert cause is not None
    assert "verified_pairs reads the setting 'alpha', which its recipe does not name" in cause.message


def test_every_setting_is_read_by_a_step_or_steers_how_it_runs() -> None:
    """A setting that no step may read would change nothing."""
    read = {name for asset in [*RECIPES, "retrieval_index"] for name in settings_seen(asset)}
    steering = {
        *("backfill_every_hours", "watch_every_seconds", "shards_per_run", "remove_many_shards"),
        *("cores_per_run", "gpus_per_run", "profile"),
    }
    assert read | steering == set(Settings.model_fields)
