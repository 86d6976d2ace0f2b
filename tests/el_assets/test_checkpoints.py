"""Checkpoints of the kinds that users bring, from files on disk to tables: what was read, and how it is recorded."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from el_resources.models.causal_lm import ModelChoice, short_window
from el_resources.settings import Settings
from tests.conftest import Workspace, failed_checks, library_documents, tiny_model
from tests.support.made_tokenizers import byte_level

NewWorkspace = Callable[..., Workspace]
A, B = "a.jsonl", "b.jsonl"
ROOT = Path(__file__).parents[2]


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
