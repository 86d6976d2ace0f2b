"""Packed sequences, decoded: tokenizers of several families over documents that spell their control tokens."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from el_resources.models.tokenization import ModelTokenizer
from tests.conftest import SEQUENCE_ASSETS, Workspace, failed_checks, library_documents
from tests.support.made_tokenizers import CONTROL, model_of

SHARD = "a.jsonl"
# Tokens are characters here, so these are small.
SMALL = {
    "root_tokens_min": 100,
    "root_tokens_max": 700,
    "chunk_tokens": 128,
    "roots_per_shard": 0,
    "max_anchors": 1,
    "alpha": 0.5,
    "candidates_per_anchor": 2,
    "controls_per_root": 0,
    "beats_controls": False,
    "epsilon": -0.9,
    "sequence_tokens": 1150,
}


def spelling_documents(count: int) -> list[dict[str, str]]:
    """Documents of about 370 characters that spell a control token in every chunk, some at their beginning."""
    documents = []
    for number, document in enumerate(library_documents(count)):
        pieces = [document["text"][start : start + 60] for start in range(0, 300, 60)]
        marked = [f"{CONTROL[(number + i) % len(CONTROL)]}{piece}" for i, piece in enumerate(pieces)]
        documents.append({"id": document["id"], "text": "".join(marked)})
    return documents


@pytest.mark.parametrize("family", ["qwen", "llama-2", "unigram-always"])
def test_packed_sequences_decode_to_the_texts_that_they_name(
    new_workspace: Callable[..., Workspace], tmp_path: Path, family: str
) -> None:
    folder = model_of(tmp_path / "model", family)
    workspace = new_workspace(**SMALL, long_model=str(folder))
    documents = spelling_documents(6)
    workspace.write_shard(SHARD, documents)
    workspace.register()
    run = workspace.materialize("documents", "context_chunks", "retrieval_index", *SEQUENCE_ASSETS)
    assert "segments_equal_their_text" not in failed_checks(run)

    packed = workspace.tables.read("packed_sequences", SHARD)
    chunks = dict(workspace.tables.read("context_chunks", SHARD).select("chunk_id", "text").iter_rows())
    texts = {"root": {document["id"]: document["text"] for document in documents}, "context": chunks}
    assert packed.height >= 1, workspace.tables.read("packing_leftovers", SHARD)
    tokenizer = ModelTokenizer.from_folder(folder)
    control = set(tokenizer.control_tokens.values())
    for token_ids, segments in packed.select("token_ids", "segments").iter_rows():
        placed = {at for at, token in enumerate(token_ids) if token in control}
        assert placed == {segment["start"] for segment in segments if segment["kind"] == "end_of_text"}
        expected = "".join(_text(segment, texts, tokenizer) for segment in segments)
        assert tokenizer.decode(token_ids) == expected
        whole = [s for s in segments if s["kind"] in texts and not s["cut"]]
        assert any(name in _text(segment, texts, tokenizer) for segment in whole for name in CONTROL)

    for asset in ("entropy_maps", "context_scores", "packed_sequences"):
        facts = workspace.tables.require_stamp(asset, SHARD).facts
        assert tokenizer.decode(facts["separator_ids"]) == "\n\n"
        assert facts["control_tokens_kept_from_text"] == len(control)


def _text(segment: dict[str, object], texts: dict[str, dict[str, str]], tokenizer: ModelTokenizer) -> str:
    """The text of a segment; of a context without its head, what is left of it."""
    if segment["kind"] == "separator":
        return "\n\n"
    if segment["kind"] == "end_of_text":
        return tokenizer.decode([tokenizer.eos_id])
    text = texts[str(segment["kind"])][str(segment["chunk_id"] or segment["doc_id"])]
    return tokenizer.decode(tokenizer.encode(text)[segment["cut"] :])  # type: ignore[misc]


def test_documents_and_samples_that_spell_a_control_token_are_set_aside_on_demand(
    new_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    folder = model_of(tmp_path / "model", "qwen")
    workspace = new_workspace(**SMALL, long_model=str(folder), special_tokens_in_text="set_aside")
    plain, spelling = library_documents(1)[0], {"id": "x", "text": "A call is <tool_call> and a tag is <table>."}
    workspace.write_shard(SHARD, [plain, spelling, {"id": "y", "text": "A tag is <table>."}])
    workspace.register()

    workspace.materialize("documents")

    found = workspace.tables.read("documents", SHARD).select("doc_id", "set_aside_reason").rows()
    assert found == [(plain["id"], None), ("x", "special_tokens"), ("y", None)]
    before = workspace.tables.require_stamp("documents", SHARD).recipe
    folder = model_of(tmp_path / "other", "byte-level")
    workspace.materialize("documents", long_model=str(folder))
    assert workspace.tables.require_stamp("documents", SHARD).recipe != before, "another tokenizer judges otherwise"
    assert workspace.tables.read("documents", SHARD)["set_aside_reason"].null_count() == 3

    sample = {"context": "c", "instruction": "i"}
    workspace.write_instructions(SHARD, [{**sample, "response": "a <|im_start|>"}, {**sample, "response": "fine"}])
    workspace.register_instructions()
    workspace.materialize("instruction_samples", long_model=str(folder))
    rows = workspace.tables.read("instruction_samples", SHARD).select("set_aside_reason", "detail").rows()
    assert rows == [("special_tokens", "spells '<|im_start|>'"), (None, None)]


def test_as_text_is_the_default(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace()
    workspace.write_shard(SHARD, [{"id": "x", "text": "It ends with <|endoftext|>."}])
    workspace.register()
    workspace.materialize("documents")
    assert workspace.tables.read("documents", SHARD).filter(pl.col("set_aside_reason").is_null()).height == 1
