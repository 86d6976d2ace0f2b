"""A real model whose weights leave the range of float16: what it cannot score is set aside, the rest goes on.

The embedding of one token is beyond 65,504, which is infinity in float16 and fine in float32. Every text that holds the
token gets NaN from there on.
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from el_assets.cli.summary import print_summary
from el_assets.entropylong.diagnosis import why_unfilled
from el_assets.tables.finite import OTHER_DTYPE, finite_rows, set_aside_facts
from el_resources.models.model_files import resolve_model
from el_resources.models.tokenization import ModelTokenizer
from tests.conftest import Workspace, chat, failed_checks, library_documents, library_samples, tiny_model

A, B = "a.jsonl", "b.jsonl"
SMALL = {
    "roots_per_shard": 5,
    "root_tokens_min": 32,
    "root_tokens_max": 0,
    "chunk_tokens": 64,
    "alpha": 0.5,
    "max_anchors": 2,
    "candidates_per_anchor": 3,
    "controls_per_root": 2,
    "sequence_tokens": 300,
    "epsilon": -0.9,
    "beats_controls": False,
    "dtype": "float16",
}
RARE = "☃"


def tokens(text: str) -> list[int]:
    return ModelTokenizer.from_folder(resolve_model("reference:long")).encode(text).tolist()


def overflowing_model(folder: Path, token: int | None = None) -> Path:
    """A tiny model for which a token overflows in float16: the last one of the rare text, if none is given."""
    tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].copy()
    weights["model.embed_tokens.weight"][tokens(RARE)[-1] if token is None else token] = 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace], tmp_path: Path) -> Workspace:
    """Four documents, of which one holds the token."""
    made = new_workspace(**SMALL, long_model=str(overflowing_model(tmp_path / "model")))
    first, *others = library_documents(4)
    made.write_shard(A, [{**first, "id": "snowman", "text": f"{RARE} {first['text']} {RARE}"}, *others])
    made.register()
    made.run("build_index")
    return made


def test_roots_and_pairs_that_overflow_are_set_aside_and_counted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    made = workspace.run("build_sequences")
    assert made.success, "one bad root stops no shard"
    maps, scores = (workspace.tables.require_stamp(name, A).facts for name in ("entropy_maps", "context_scores"))
    assert (maps["roots_not_finite"], maps["roots_not_finite_first"], maps["dtype"]) == (1, ["'snowman'"], "float16")
    roots = workspace.tables.read("entropy_maps", A)
    assert roots.height == 3
    assert roots["entropy_nats"].explode().is_finite().all()

    wanted = workspace.tables.read("candidate_contexts", A)
    kept = workspace.tables.read("context_scores", A)
    assert scores["pairs_not_finite"] == wanted.height - kept.height > 0
    assert kept.height > 0
    keys = ["doc_id", "anchor", "chunk_id", "is_control"]
    lost = wanted.join(kept, on=keys, how="anti")
    snowmen = workspace.tables.read("context_chunks", A).filter(pl.col("text").str.contains(RARE))["chunk_id"]
    robbed = lost.filter(pl.col("is_control") & pl.col("chunk_id").is_in(snowmen.implode()))
    alone = lost.filter(~pl.col("chunk_id").is_in(snowmen.implode()))
    assert alone.join(robbed, on=["doc_id", "anchor"], how="anti").is_empty(), "an anchor that lost a control is left"
    assert not kept["chunk_id"].is_in(snowmen.implode()).any()
    assert kept["reduction"].is_finite().all()

    failed = failed_checks(made)
    assert {"sampled_roots_have_finite_scores", "scored_pairs_have_finite_scores"} <= failed
    assert not failed & {"entropies_are_within_bounds", "every_candidate_is_scored"}
    found = {check.check_name: str(check.description) for check in made.get_asset_check_evaluations()}
    assert found["sampled_roots_have_finite_scores"] == (
        "a.jsonl: 1 roots have scores that are not finite in float16 and are set aside: 'snowman'. " + OTHER_DTYPE
    )
    print_summary(workspace.loaded(), [A], [], seconds=1)
    shown = capsys.readouterr().out
    assert "warning: entropy_maps of a.jsonl: 1 roots have scores that are not finite in float16" in shown
    assert "EL_DTYPE" in shown


def test_another_dtype_scores_what_was_set_aside(workspace: Workspace) -> None:
    """So the remedy that is named does help."""
    made = workspace.run("build_sequences", dtype="float32")
    assert workspace.tables.require_stamp("entropy_maps", A).facts["roots_not_finite"] == 0
    assert workspace.tables.read("entropy_maps", A).height == 4
    assert not failed_checks(made) & {"sampled_roots_have_finite_scores", "scored_pairs_have_finite_scores"}


def test_a_shard_of_which_nothing_is_finite_stops_no_other_and_names_the_dtype(
    new_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    workspace = new_workspace(**SMALL, long_model=str(overflowing_model(tmp_path / "model")))
    workspace.write_shard(A, [{"id": "bad", "text": f"{RARE} " + library_documents(1)[0]["text"]}])
    workspace.write_shard(B, library_documents(3, offset=1))
    workspace.register()
    workspace.run("build_index")
    made = workspace.run("build_sequences")
    assert made.success
    assert (workspace.tables.read("entropy_maps", A).height, workspace.tables.read("entropy_maps", B).height) == (0, 3)
    assert "none of the 1 sampled roots has finite scores" in str(why_unfilled(workspace.tables, A))
    assert "EL_DTYPE" in str(why_unfilled(workspace.tables, A))


def test_samples_that_overflow_are_set_aside_and_the_others_are_ranked(
    new_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    workspace = new_workspace(dtype="float16", long_model=str(overflowing_model(tmp_path / "model")), short_window=128)
    snowman = chat("snowman", f"A {RARE} stands in the yard. " * 3, "What stands in the yard?", "A man of snow.")
    workspace.write_instructions(A, [snowman, *library_samples(12)])
    workspace.register_instructions()
    made = workspace.run("score_samples")
    assert made.success
    for table in ("hmg_scores", "cam_scores"):
        facts = workspace.tables.require_stamp(table, A).facts
        assert (facts["samples_not_finite"], facts["samples_not_finite_first"]) == (1, ["'snowman'"])
        assert workspace.tables.read(table, A).height == 12
    assert {"guided_samples_have_finite_scores", "aware_samples_have_finite_scores"} == failed_checks(made)
    assert workspace.run("select_samples").success
    ranked = workspace.tables.read("influence_scores")
    assert ranked.height == 12
    assert "snowman" not in ranked["sample_id"].to_list()


def test_rows_are_finite_if_all_their_numbers_are() -> None:
    nan, infinite = float("nan"), float("inf")
    rows = [("fine", 1.0, [1.0, 2.0]), ("none", 1.0, []), ("nan", nan, [1.0]), ("list", 1.0, [1.0, infinite])]
    table = pl.DataFrame(
        rows, schema={"sample_id": pl.String, "x": pl.Float64, "xs": pl.List(pl.Float32)}, orient="row"
    )
    kept, lost = finite_rows(table)
    assert (kept["sample_id"].to_list(), lost) == (["fine", "none"], ["'nan'", "'list'"])
    found = set_aside_facts("samples", ["a", "b"], "float16")
    assert found == {"samples_not_finite": 2, "samples_not_finite_first": ["a", "b"], "dtype": "float16"}
