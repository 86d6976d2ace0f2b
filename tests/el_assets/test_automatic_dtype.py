"""The dtype `auto`: fingerprints hold what it comes to, and tables that were stamped `auto` are taken over."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from el_assets.catalogue import SEQUENCE_TABLES
from el_assets.operations.status import status_of
from el_assets.sources import KINDS
from el_assets.tables.model_roles import OtherModelError
from el_resources.models.causal_lm import ModelChoice
from el_resources.models.model_files import model_fingerprint
from el_resources.store.stamps import MixedSettingsError
from tests.conftest import Workspace, forwards, library_documents, library_samples

NewWorkspace = Callable[..., Workspace]
A, B = "a.jsonl", "b.jsonl"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def scored_on_a_gpu(new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A shard whose entropies were scored where `auto` is the checkpoint's bfloat16."""
    workspace = new_workspace(roots_per_shard=1, max_anchors=2)
    for shard, offset in ((A, 0), (B, 4)):
        workspace.write_shard(shard, library_documents(4, offset=offset))
    workspace.register()
    workspace.materialize("documents", "context_chunks")
    workspace.materialize("retrieval_index")
    with monkeypatch.context() as gpu:
        gpu.setattr(ModelChoice, "place", lambda self: "gpu")
        workspace.materialize("entropy_maps", "candidate_contexts", partitions=[A])
    return workspace


def test_a_table_of_a_gpu_is_up_to_date_on_a_laptop_and_not_mixed_with_its_own(scored_on_a_gpu: Workspace) -> None:
    workspace = scored_on_a_gpu
    stamp = workspace.tables.require_stamp("entropy_maps", A)
    assert stamp.facts["dtype"] == "bfloat16"
    again = workspace.materialize("entropy_maps", partitions=[A])
    assert forwards(again) == 0
    assert forwards(workspace.materialize("entropy_maps", partitions=[A], dtype="bfloat16")) == 0
    (status,) = (
        s
        for s in status_of(KINDS["corpus"], workspace.instance, workspace.loaded()).assets
        if s.asset == "entropy_maps"
    )
    assert (status.done, status.missing, status.stale) == (1, [B], {})

    said = "where EL_DTYPE=auto means bfloat16, and here it means float32"
    with pytest.raises(OtherModelError, match=said):
        workspace.materialize("context_scores", partitions=[A])
    workspace.materialize("entropy_maps", partitions=[B])
    with pytest.raises(MixedSettingsError, match=r"weights in bfloat16 in 'a\.jsonl' and .* weights in float32 in"):
        workspace.tables.scan_many("entropy_maps", [A, B])


def test_a_table_that_was_stamped_with_auto_says_what_is_not_known(
    new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = new_workspace(roots_per_shard=1)
    workspace.write_shard(A, library_documents(1))
    workspace.register()
    workspace.materialize("documents")
    with monkeypatch.context() as gpu:
        gpu.setattr(ModelChoice, "place", lambda self: "gpu")
        workspace.materialize("entropy_maps")
    tables, settings = workspace.tables, workspace.loaded()
    stamp = tables.require_stamp("entropy_maps", A)
    earlier = model_fingerprint(ModelChoice.long(settings).folder(), dtype="auto")
    old = replace(stamp, recipe="earlier", settings={**stamp.settings, "scorer": earlier})
    tables.write(tables.read("entropy_maps", A), old)
    (status,) = (
        s for s in status_of(KINDS["corpus"], workspace.instance, settings).assets if s.asset == "entropy_maps"
    )
    assert status.stale == {A: ("an earlier version recorded the weights' dtype as `auto` (bfloat16 then)",)}


def test_scores_that_were_stamped_with_auto_are_taken_over_if_the_dtype_is_this_one(
    new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = new_workspace(roots_per_shard=1, max_anchors=2, segment_tokens=64)
    workspace.write_shard(A, library_documents(4))
    workspace.write_instructions(A, library_samples(2))
    workspace.register()
    workspace.register_instructions()
    jobs = ("build_index", "build_sequences", "score_samples")
    with monkeypatch.context() as earlier:

        def as_auto(self: ModelChoice, place: object = None) -> str:
            return model_fingerprint(self.folder(), dtype="auto")

        earlier.setattr(ModelChoice, "fingerprint", as_auto)
        assert sum(forwards(workspace.run(job)) for job in jobs) > 0
    before = {name: workspace.tables.read(name, A) for name in (*SEQUENCE_TABLES, "hmg_scores", "cam_scores")}
    (status,) = (
        s
        for s in status_of(KINDS["corpus"], workspace.instance, workspace.loaded()).assets
        if s.asset == "entropy_maps"
    )
    assert status.stale[A][0].endswith("(float32 then); a run takes its scores over")

    assert sum(forwards(workspace.run(job)) for job in jobs) == 0

    for name, table in before.items():
        assert workspace.tables.read(name, A).equals(table), name
        scorer = workspace.tables.require_stamp(name, A).settings["scorer"]
        assert scorer == ModelChoice.long(workspace.loaded()).fingerprint(), name
    assert all(asset.is_done for asset in status_of(KINDS["corpus"], workspace.instance, workspace.loaded()).assets)
    assert forwards(workspace.materialize("entropy_maps", partitions=[A], dtype="bfloat16")) > 0


def test_the_dtype_is_resolved_without_torch() -> None:
    code = (
        "import sys; from el_resources.models.causal_lm import ModelChoice; "
        "from el_resources.settings import Settings; "
        "m = ModelChoice.long(Settings.load({}, device='cpu')); "
        "assert (m.weights_dtype(), m.weights_dtype('gpu')) == ('float32', 'bfloat16'); "
        "assert m.fingerprint() != m.fingerprint('gpu'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
