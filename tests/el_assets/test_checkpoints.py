"""Checkpoints of the kinds that users bring, from files on disk to tables: what was read, and how it is recorded."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from el_assets.catalogue import SEQUENCE_TABLES
from el_assets.gateau.summary import gateau_rows
from el_assets.operations.status import in_words, status_of
from el_assets.reports.gateau_data import RankedPool, draw, report_data
from el_assets.sources import KINDS
from el_assets.tables.model_roles import OtherModelError
from el_assets.tables.recipes import Cookbook
from el_resources.models.causal_lm import CausalLM, ModelChoice, short_window
from el_resources.models.model_files import model_fingerprint
from el_resources.settings import Settings
from el_resources.sources.opening import open_corpus
from el_resources.store.stamps import MixedSettingsError
from tests.conftest import Workspace, failed_checks, forwards, library_documents, library_samples, tiny_model
from tests.support.made_tokenizers import byte_level

NewWorkspace = Callable[..., Workspace]
A, B = "a.jsonl", "b.jsonl"
ROOT = Path(__file__).parents[2]
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 400,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "initializer_range": 0.2,
}
GEMMA_2 = transformers.Gemma2Config(**SHAPE, num_hidden_layers=2, head_dim=16)
GEMMA_3 = transformers.Gemma3TextConfig(
    **SHAPE,
    num_hidden_layers=3,
    head_dim=16,
    sliding_window=64,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)


def chat_model(folder: Path) -> Path:
    """A tiny model whose files name chat tokens, as SmolLM2-Instruct's do."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|im_end|>"])
    ids = {name: tokenizer.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>")}
    size = tokenizer.get_vocab_size()
    tiny_model(folder, vocab_size=size, bos_token_id=ids["<|im_start|>"], eos_token_id=ids["<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text("<|im_start|>{{ content }}<|im_end|>")
    return folder


# --- chat tokens


def test_texts_of_a_chat_model_follow_its_end_of_text_and_so_do_groups(
    new_workspace: NewWorkspace, tmp_path: Path
) -> None:
    from el_resources.scoring.engine import ScoringEngine

    folder = chat_model(tmp_path / "chat")
    workspace = new_workspace(
        long_model=str(folder),
        alpha=-10.0,
        epsilon=-0.99,
        beats_controls=False,
        max_anchors=1,
        candidates_per_anchor=2,
        controls_per_root=0,
        root_tokens_max=1500,
        sequence_tokens=2100,
    )
    workspace.write_shard(A, library_documents(4))
    workspace.register()
    for job in ("build_index", "build_sequences"):
        assert "packed_sequences" not in failed_checks(workspace.run(job))

    maps, packed = (workspace.tables.require_stamp(name, A) for name in ("entropy_maps", "packed_sequences"))
    end_of_text = ModelChoice.long(workspace.loaded()).tokenizer().control_tokens["<|endoftext|>"]
    assert (maps.facts["bos_token"], maps.facts["bos_id"]) == ("<|endoftext|>", end_of_text)
    assert (packed.facts["end_of_text_token"], packed.facts["end_of_text_id"]) == ("<|endoftext|>", end_of_text)
    row = workspace.tables.read("entropy_maps", A).row(0, named=True)
    engine = ScoringEngine.from_folder(folder, bos_id=end_of_text, dtype="float32", device="cpu")
    expected = engine.score([np.array(row["token_ids"])])[0].entropy_nats
    np.testing.assert_allclose(row["entropy_nats"], expected, atol=1e-4)
    ids = {token for tokens in workspace.tables.read("packed_sequences", A)["token_ids"] for token in tokens}
    assert engine.vocab_size - 1 not in ids  # <|im_end|>, the last of the vocabulary


def test_another_bos_makes_scores_stale_and_another_end_of_text_packing(
    new_workspace: NewWorkspace, tmp_path: Path
) -> None:
    workspace = new_workspace(long_model=str(chat_model(tmp_path / "chat")))
    chosen = ModelChoice.long(workspace.loaded())
    named = {
        name: ModelChoice.long(workspace.loaded(**{name: "<|im_end|>"})) for name in ("bos_token", "end_of_text_token")
    }
    assert named["bos_token"].fingerprint() != chosen.fingerprint() == named["end_of_text_token"].fingerprint()
    assert chosen.tokenizer_fingerprint() == named["bos_token"].tokenizer_fingerprint()
    assert chosen.other_end_of_text() == "<|endoftext|> (256)"
    assert named["end_of_text_token"].other_end_of_text() is None  # the checkpoint's own


# --- the dtype `auto`


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


# --- windows


def test_only_a_long_model_gives_a_quarter_of_its_window(tmp_path: Path) -> None:
    folder = str(tiny_model(tmp_path / "long", max_position_embeddings=400))
    assert short_window(Settings.load({}, long_model=folder)) == 100
    assert short_window(Settings.load({}, long_model=folder, long_window=200)) == 50
    assert short_window(Settings.load({}, long_model=folder, short_model=folder)) == 400
    assert short_window(Settings.load({}, long_model=folder, short_window=64)) == 64
    assert short_window(Settings.load({})) == 512


def test_a_config_without_a_window_needs_the_setting(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "long")
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="states no max_position_embeddings; give the window explicitly"):
        ModelChoice.long(Settings.load({}, long_model=str(folder))).window()
    given = ModelChoice.long(Settings.load({}, long_model=str(folder), long_window=300))
    other = ModelChoice.long(Settings.load({}, long_model=str(folder), long_window=200))
    assert (given.window(), given.fingerprint() != other.fingerprint()) == (300, True)


# --- attention that is mixed, and attention that cannot be watched


def pool(workspace: Workspace) -> Workspace:
    workspace.write_instructions(A, library_samples(5))
    workspace.register_instructions()
    return workspace


def test_layers_that_do_not_reach_a_segment_do_not_count(new_workspace: NewWorkspace, tmp_path: Path) -> None:
    workspace = pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_3)), segment_tokens=16))
    assert failed_checks(workspace.run("score_samples")) == set()
    stamp = workspace.tables.require_stamp("cam_scores", A)
    assert stamp.facts["layer_windows"] == [64, None, 64]
    assert set(stamp.facts["segments_by_layers"]) == {"1", "3"}
    assert stamp.facts["layer_sum_error"] < 1e-6
    assert stamp.made_from["attention_layers"] == "those that reach a segment"
    guided = workspace.tables.require_stamp("hmg_scores", A).facts
    assert (guided["window_tokens"], guided["short_window_tokens"]) == (400, 100)


def test_models_without_windows_are_drafted_as_before(new_workspace: NewWorkspace) -> None:
    workspace = pool(new_workspace())
    workspace.materialize("instruction_samples")
    settings = workspace.loaded()
    draft = Cookbook(settings, workspace.tables, open_corpus(settings.corpus)).draft("cam_scores", A)
    assert "attention_layers" not in draft.made_from


def test_a_model_that_cannot_be_watched_is_refused_before_it_is_loaded(
    new_workspace: NewWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model(tmp_path / "gemma", GEMMA_2)
    workspace = pool(new_workspace(long_model=str(folder)))
    workspace.materialize("instruction_samples")
    monkeypatch.setattr(CausalLM, "engine", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="cannot be watched: its attention has capped scores; set EL_CAM=false"):
        workspace.run("score_samples")
    assert not workspace.tables.exists("hmg_scores", A)


@pytest.mark.filterwarnings("ignore:.*is read in padded batches")
def test_what_no_config_says_is_refused_before_the_first_sample_is_scored(
    new_workspace: NewWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from el_resources.scoring.engine import ScoringEngine

    monkeypatch.setattr("el_assets.gateau.steps.attention_is_watchable", lambda config: "")
    monkeypatch.setattr(ScoringEngine, "score", lambda *_, **__: pytest.fail("a sample was scored"))
    workspace = pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_2))))
    with pytest.raises(ValueError, match="cannot be watched: its attention has capped scores; set EL_CAM=false"):
        workspace.run("score_samples")


def test_a_launch_without_cam_of_a_job_that_measures_it_says_what_to_do(new_workspace: NewWorkspace) -> None:
    workspace = pool(new_workspace())
    workspace.materialize("instruction_samples")
    with pytest.raises(
        ValueError, match=r"cam_scores cannot be made with EL_CAM=false; set EL_CAM=false in the environment"
    ):
        workspace.materialize("cam_scores", cam=False)


@pytest.mark.filterwarnings("ignore:.*is read in padded batches")
def test_gateau_without_cam_ranks_by_hmp_and_says_so(new_workspace: NewWorkspace, tmp_path: Path) -> None:
    workspace = pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_2)), cam=False))
    workspace.materialize("instruction_samples", "hmg_scores")
    assert failed_checks(workspace.run("select_samples")) <= {"the_pool_is_large_enough"}
    stamp, table = workspace.tables.require_stamp("influence_scores"), workspace.tables.read("influence_scores")
    assert stamp.facts["weights"] == {"hmp": 1.0, "cas": 0.0}
    assert stamp.facts["rank_correlation_with_cas"] is None
    assert table["cas"].null_count() == table.height == 5
    assert table["hmp"].is_sorted(descending=True)

    settings, ranked = workspace.loaded(), RankedPool.of(workspace.tables)
    rows = dict(gateau_rows(settings, workspace.tables, [A]))
    assert rows["awareness"] == "not measured (EL_CAM=false): influence is HMP alone"
    assert "windows of 100 and 400 tokens" in rows["guidance"]
    page = report_data(settings, ranked)
    assert json.dumps(page, allow_nan=False) and draw(ranked)
    assert ["ranked", 5, "by HMP alone"] in page["funnel"]
    shown = {name: value for name, value, _ in page["settings"]}
    assert (shown["cam"], shown["short_window_tokens"], shown["bos_id"]) == ("false", "100", "0")


def test_a_store_whose_awareness_is_from_before_cam_was_switched_off(
    new_workspace: NewWorkspace, tmp_path: Path
) -> None:
    """Report, status and closing words are those of a ranking by HMP alone; the older table is left in peace."""
    workspace = pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_3)), segment_tokens=32))
    for job in ("score_samples", "select_samples"):
        workspace.run(job)
    before = workspace.tables.require_stamp("cam_scores", A)
    assert report_data(workspace.loaded(), RankedPool.of(workspace.tables))["with_cam"] is True

    off = replace(workspace, settings={**workspace.settings, "cam": False})
    off.materialize("hmg_scores")
    off.run("select_samples")
    assert workspace.tables.require_stamp("cam_scores", A) == before
    page = report_data(off.loaded(), RankedPool.of(off.tables))
    assert page["with_cam"] is False
    assert "cam_scores" not in {name for name, *_ in page["costs"]}
    shown = {name: value for name, value, _ in page["settings"]}
    assert shown["cam"] == "false"
    assert page["correlations"][1] is None
    assert ["ranked", page["n_samples"], "by HMP alone"] in page["funnel"]
    assert all(entry["cas"] is None and entry["lengths"] == [] for entry in page["samples"])
    rows = dict(gateau_rows(off.loaded(), off.tables, [A]))
    assert rows["awareness"] == "not measured (EL_CAM=false): influence is HMP alone"
    status = status_of(KINDS["instructions"], off.instance, off.loaded())
    assert "cam_scores" not in {one.asset for one in status.assets}
    assert status.is_done, list(in_words(status))


def test_gateau_without_cam_on_the_command_line(tmp_path: Path) -> None:
    """From files to subsets, and a status in which nothing is missing."""
    folder = tiny_model(tmp_path / "gemma", GEMMA_2)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / A).write_text("".join(json.dumps(sample) + "\n" for sample in library_samples(3)))
    (tmp_path / "dagster").mkdir()
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(tmp_path / "dagster"),
        "EL_STORE": str(tmp_path / "store"),
        "EL_INSTRUCTIONS": f"jsonl:{tmp_path / 'pool'}",
        "EL_LONG_MODEL": str(folder),
        "OMP_NUM_THREADS": "1",
    }

    def command(*arguments: str, **more: str) -> Any:
        words = [sys.executable, "-m", "el_assets", *arguments]
        return subprocess.run(words, env=environment | more, cwd=ROOT, capture_output=True, text=True, check=False)

    refused = command("run")
    assert refused.returncode == 2, "before the index and the sequences, which would come first"
    assert "set EL_CAM=false" in refused.stderr
    assert not (tmp_path / "store" / "tables").exists()
    done = command("run", "--select", "gateau", EL_CAM="off")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "influence is HMP alone" in done.stdout
    status = command("status", "--select", "gateau", EL_CAM="off")
    assert status.returncode == 0, status.stdout
    assert "cam_scores" not in status.stdout
