"""Both reports over real runs: small corpora of real text, and documents that would like to be markup."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from el_assets.entropylong.selection import KeepRule, judge, keep_contexts, over_shards, pass_rates
from el_resources.store.shard_tables import MissingTableError
from tests.conftest import Workspace, chat, library_documents, library_samples, tiny_model
from tests.el_assets.reports.pages import Page

SMALL = {
    "roots_per_shard": 6,
    "root_tokens_min": 64,
    "root_tokens_max": 300,
    "chunk_tokens": 96,
    "alpha": 0.5,
    "max_anchors": 3,
    "candidates_per_anchor": 3,
    "controls_per_root": 2,
    "sequence_tokens": 1000,
    "epsilon": 0.0,
    "max_chunk_uses": 2,
    "segment_tokens": 64,
}
A, B = "a.jsonl", "b <b>.jsonl"
ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
HOSTILE = {
    "id": f"root {ATTACK}",
    "text": f"How a page is attacked: {ATTACK}\n\n" + library_documents(1)[0]["text"][:500],
    "url": "javascript:alert(1)",
}


@pytest.fixture(scope="module")
def finished(new_module_workspace: Callable[..., Workspace]) -> Workspace:
    workspace = new_module_workspace(**SMALL)
    workspace.write_shard(A, [HOSTILE, *library_documents(5, offset=1)])
    workspace.write_shard(B, library_documents(6, offset=6))
    workspace.write_instructions(A, [chat(ATTACK, HOSTILE["text"], ATTACK, ATTACK), *library_samples(9)])
    workspace.register()
    workspace.register_instructions()
    for job in ("build_index", "build_sequences", "score_samples", "select_samples"):
        assert workspace.run(job).success
    assert report(workspace).success
    return workspace


def report(workspace: Workspace, *assets: str) -> dg.ExecuteInProcessResult:
    return workspace.materialize(*(assets or ("entropylong_report", "gateau_report")))


def path(workspace: Workspace, name: str) -> Path:
    return Path(workspace.settings["store"]) / "reports" / f"{name}.html"


@pytest.fixture(scope="module")
def entropylong(finished: Workspace) -> Page:
    return Page(path(finished, "entropylong_report").read_text("utf-8"))


@pytest.fixture(scope="module")
def gateau(finished: Workspace) -> Page:
    return Page(path(finished, "gateau_report").read_text("utf-8"))


@pytest.mark.parametrize("name", ["entropylong", "gateau"])
def test_pages_are_whole_and_load_nothing(name: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(name)
    assert page.unbalanced == []
    assert page.policy.startswith("default-src 'none'; ")
    assert "http:" not in page.outside_the_data()
    assert "https:" not in page.outside_the_data()
    assert {tag for tag, _ in page.elements} & {"link", "img", "iframe", "object", "image"} == set()
    assert [kind for kind, _ in page.scripts] == ["application/json", None, None]
    assert "document.title" not in page.outside_the_data(), "text of documents stands in the data only"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]


@pytest.mark.parametrize(("name", "script"), [("entropylong", "entropylong.js"), ("gateau", "gateau.js")])
def test_scripts_find_the_places_that_they_fill(name: str, script: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(name)
    own = "".join(text for kind, text in page.scripts if kind is None)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert set(re.findall(r'place\("([\w-]+)"\)', own)) <= ids
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(", own)


def test_a_hostile_document_is_shown_word_for_word(finished: Workspace, entropylong: Page) -> None:
    (entry,) = [entry for entry in entropylong.data["documents"] if entry["id"] == HOSTILE["id"]]
    assert "".join(entry["tokens"]) == HOSTILE["text"]
    assert entry["url"] == HOSTILE["url"]


def test_a_hostile_sample_is_shown_word_for_word(gateau: Page) -> None:
    (entry,) = [entry for entry in gateau.data["samples"] if entry["id"] == ATTACK]
    assert (entry["instruction"], entry["response"]) == (ATTACK, ATTACK)
    assert "".join(entry["segments"]) == HOSTILE["text"]


def test_the_funnel_counts_what_the_tables_hold(finished: Workspace, entropylong: Page) -> None:
    tables = {
        name: finished.tables.scan_many(name, [A, B]).collect()
        for name in ("documents", "context_chunks", "entropy_maps", "context_scores", "verified_pairs")
    }
    sequences = finished.tables.scan_many("packed_sequences", [A, B]).collect()
    kinds = [segment["kind"] for segments in sequences["segments"] for segment in segments]
    eligible = [finished.tables.require_stamp("entropy_maps", shard).facts["documents_eligible"] for shard in (A, B)]
    assert {name: count for name, count, _ in entropylong.data["funnel"]} == {
        "documents": tables["documents"].height,
        "chunks": tables["context_chunks"].height,
        "eligible roots": sum(eligible),
        "roots": tables["entropy_maps"].height,
        "anchors": sum(len(anchors) for anchors in tables["entropy_maps"]["anchors"]),
        "candidates": tables["context_scores"].filter(~pl.col("is_control")).height,
        "verified contexts": tables["verified_pairs"].height,
        "packed contexts": kinds.count("context"),
        "sequences": sequences.height,
    }
    assert tables["verified_pairs"].height > 3


def test_counts_over_epsilon_are_those_of_selection(finished: Workspace, entropylong: Page) -> None:
    grid = entropylong.data["grid"]
    scores = over_shards(finished.tables.scan_many("context_scores", [A, B]))
    for row in grid:
        rule = KeepRule(epsilon=row["epsilon"], criterion="entropy", beats_controls=True)
        rates = pass_rates(judge(scores, rule), seed=0)
        of_shards = [
            keep_contexts(judge(finished.tables.read("context_scores", shard), rule), max_uses=2)[0] for shard in (A, B)
        ]
        assert row["contexts"] == sum(kept.height for kept in of_shards)
        assert row["roots"] == sum(kept["doc_id"].n_unique() for kept in of_shards)
        assert (row["passing"], row["retrieved"], row["random"]) == (
            rates.n_retrieved_passing,
            rates.retrieved,
            rates.null,
        )
    (made,) = [row for row in grid if row["is_made"]]
    assert made["epsilon"] == 0.0
    assert made["contexts"] == finished.tables.scan_many("verified_pairs", [A, B]).collect().height
    assert [row["contexts"] for row in grid] == sorted((row["contexts"] for row in grid), reverse=True)


def test_every_verdict_follows_from_the_stored_numbers(finished: Workspace, entropylong: Page) -> None:
    kept = finished.tables.scan_many("verified_pairs", [A, B]).collect()
    verified = {(row["shard"], row["doc_id"], at, row["chunk_id"]) for row in kept.to_dicts() for at in row["anchors"]}
    seen = set()
    for entry in entropylong.data["documents"]:
        for at, detail in entry["tried"].items():
            for chunk, rank, _, _, _, reduction, _, rival, verdict in detail["pairs"]:
                chunk_id, _, text = entry["chunks"][chunk]
                seen.add(verdict)
                assert text
                assert (rank is None) == (verdict == "random")
                is_verified = (entry["shard"], entry["id"], int(at), chunk_id) in verified
                assert is_verified == (verdict == "kept")
                if verdict == "below":
                    assert reduction <= 0.0
                if verdict == "beaten":
                    assert 0.0 <= reduction <= rival
    assert {"kept", "below", "beaten", "random"} <= seen


def test_segments_tile_the_sequence_and_hold_its_text(finished: Workspace, entropylong: Page) -> None:
    for entry in entropylong.data["sequences"]:
        starts, ends = ([segment[side] for segment in entry["segments"]] for side in ("start", "end"))
        assert [*starts, entry["n_tokens"]] == [0, *ends]
    documents = dict(finished.tables.scan_many("documents", [A, B]).select("doc_id", "text").collect().iter_rows())
    roots = [s for entry in entropylong.data["sequences"] for s in entry["segments"] if s["kind"] == "root"]
    assert roots
    assert all(documents[root["doc_id"]] == root["text"] for root in roots)


def test_samples_show_their_stored_scores_and_place(finished: Workspace, gateau: Page) -> None:
    influence = finished.tables.read("influence_scores")
    ranks = {row["sample_id"]: row["rank"] for row in influence.to_dicts()}
    assert {entry["id"]: entry["rank"] for entry in gateau.data["samples"]} == ranks
    cam = {row["sample_id"]: row for row in finished.tables.read("cam_scores", A).to_dicts()}
    for entry in gateau.data["samples"]:
        stored = cam[entry["id"]]
        assert len(entry["segments"]) == len(entry["attention"]) == len(stored["segment_tokens"])
        assert entry["nll_alone"] == pytest.approx(stored["segment_nll_nats"], abs=1e-3)
        assert sum(entry["attention"]) + entry["rest_attention"] == pytest.approx(1, abs=1e-2)
    assert ["ranked", influence.height, "both scores exist"] in gateau.data["funnel"]


def test_the_same_tables_make_the_same_page_and_it_is_not_written_again(finished: Workspace) -> None:
    before = finished.files()
    again = report(finished)
    events = {
        e.asset_key.to_user_string(): e.materialization.metadata for e in again.get_asset_materialization_events()
    }
    assert finished.files() == before
    assert [events[name]["skipped"].value for name in ("entropylong_report", "gateau_report")] == [True, True]
    assert events["gateau_report"]["path"].value == str(path(finished, "gateau_report"))


def test_a_report_needs_tables(new_workspace: Callable[..., Workspace]) -> None:
    workspace = new_workspace(**SMALL)
    workspace.write_shard(A, library_documents(2))
    workspace.register()
    with pytest.raises(MissingTableError, match=r"no shard in store .* run job build_sequences first"):
        report(workspace, "entropylong_report")
    with pytest.raises(MissingTableError, match="materialize influence_scores"):
        report(workspace, "gateau_report")


def test_a_report_needs_the_tokenizer_of_its_tables(finished: Workspace, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "model")
    file = other / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "normalizer": {"type": "NFC"}}), "utf-8")
    with pytest.raises(ValueError, match="made with another tokenizer"):
        finished.materialize("entropylong_report", long_model=str(other))


def test_pictures_and_first_rows_stand_on_the_materializations_of_made_and_of_skipped_tables(
    finished: Workspace,
) -> None:
    for run in (finished.run("build_sequences"), finished.run("build_sequences", A, force=True)):
        shown = {
            event.asset_key.to_user_string(): event.materialization.metadata
            for event in run.get_asset_materialization_events()
        }
        for asset, picture in (
            ("entropy_maps", "picture_of_entropies"),
            ("context_scores", "picture_of_reductions"),
            ("verified_pairs", "picture_of_contexts_per_root"),
            ("packed_sequences", "picture_of_fill_and_distances"),
        ):
            assert str(shown[asset][picture].value).startswith("![picture](data:image/png;base64,")
            assert len(str(shown[asset][picture].value)) < 54_000
        assert all("first_rows" in metadata for metadata in shown.values())
