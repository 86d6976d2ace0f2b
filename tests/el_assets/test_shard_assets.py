"""What steps of a shard share: progress that ends at its total."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workspace, library_documents, library_samples, tiny_model


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """By task: its total, then every advance."""
    found: dict[str, list[int]] = {}

    @contextmanager
    def record(context: Any, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        found[what] = [total]
        yield found[what].append

    monkeypatch.setattr("el_assets.shard_assets.progress", record)
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
