"""States of tables after a change: small tables with real stamps, real fingerprints of real models and files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from el_assets.__main__ import main
from el_assets.catalogue import CORPUS_TABLES, RECIPES, SAMPLE_TABLES, SEQUENCE_TABLES
from el_assets.corpus.assets import open_corpus_of
from el_assets.gateau.assets import influence_inputs, open_instructions_of, scored_pool, subset_inputs
from el_assets.operations.status import SourceStatus, in_words, made_again, status_of
from el_assets.operations.status_checks import status_result
from el_assets.partitions import (
    deregister_shards,
    instruction_shards,
    register_shards,
    registered_shards,
    selected_fractions,
)
from el_assets.sources import KINDS
from el_assets.tables.recipes import Cookbook
from el_assets.tables.schemas import polars_schema
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from tests.conftest import Workspace, chat

A, B = "a.jsonl", "b.jsonl"
FROM_MAPS = SEQUENCE_TABLES
FROM_CANDIDATES, FROM_SCORES, FROM_PAIRS = FROM_MAPS[1:], FROM_MAPS[2:], FROM_MAPS[3:]
SCORES = ("hmg_scores", "cam_scores")
SELECTION = ("influence_scores", "selected_subsets")


def finish(workspace: Workspace, *shards: str) -> None:
    """Empty tables with the stamps that a run would give them; no index."""
    settings, tables = workspace.loaded(), workspace.tables
    cookbook = Cookbook(settings, tables, open_corpus_of(settings))
    for shard in shards:
        for name in (*CORPUS_TABLES, *SEQUENCE_TABLES):
            stamp = replace(cookbook.draft(name, shard), facts={"rows": 0})
            tables.write(pl.DataFrame(schema=polars_schema(name)), stamp)
        leftovers = replace(stamp, asset="packing_leftovers")
        tables.write(pl.DataFrame(schema=polars_schema("packing_leftovers")), leftovers)


def finish_pool(workspace: Workspace, *shards: str) -> None:
    """The same for instruction samples, ranking and subsets."""
    settings, tables = workspace.loaded(), workspace.tables
    cookbook = Cookbook(settings, tables, open_instructions_of(settings))
    for shard in shards:
        for name in SAMPLE_TABLES:
            stamp = cookbook.draft(name, shard)
            samples = tables.stamp("instruction_samples", shard)
            facts = {"samples_fingerprint": samples.fingerprint} if samples else {}
            tables.write(pl.DataFrame(schema=polars_schema(name)), replace(stamp, facts=facts))
    inputs = influence_inputs(scored_pool(tables, list(shards), SCORES))
    influence = cookbook.draft("influence_scores", "all", inputs)
    influence = replace(influence, facts={"shards": list(shards)})
    tables.write(pl.DataFrame(schema=polars_schema("influence_scores")), influence)
    inputs = subset_inputs(influence, tables.stamps("instruction_samples", shards))
    for fraction in selected_fractions.get_partition_keys():
        stamp = cookbook.draft("selected_subsets", fraction, inputs)
        tables.write(pl.DataFrame(schema=polars_schema("selected_subsets")), stamp)


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace]) -> Workspace:
    """Two finished shards of a corpus and of a pool."""
    return finished(new_workspace())


@pytest.fixture(scope="module")
def unchanged(new_module_workspace: Callable[..., Workspace]) -> Workspace:
    """The same, for tests that write nothing."""
    return finished(new_module_workspace())


def finished(workspace: Workspace) -> Workspace:
    for name in (A, B):
        workspace.write_shard(name, [{"id": "1", "text": f"text of {name}"}])
        workspace.write_instructions(name, [chat(name, "context", "question?", "answer")])
    workspace.register()
    workspace.register_instructions()
    finish(workspace, A, B)
    finish_pool(workspace, A, B)
    return workspace


def corpus(workspace: Workspace, **changes: Any) -> SourceStatus:
    return status_of(KINDS["corpus"], workspace.instance, workspace.loaded(**changes))


def pool(workspace: Workspace, **changes: Any) -> SourceStatus:
    return status_of(KINDS["instructions"], workspace.instance, workspace.loaded(**changes))


def stale(status: SourceStatus) -> dict[str, set[str]]:
    """Reasons of all stale partitions, by asset."""
    return {a.asset: {why for reasons in a.stale.values() for why in reasons} for a in status.assets if a.stale}


def test_nothing_is_stale_after_a_run(unchanged: Workspace) -> None:
    assert {a.asset: (a.done, a.missing, a.stale) for a in corpus(unchanged).assets} == {
        **dict.fromkeys((*CORPUS_TABLES, *SEQUENCE_TABLES), (2, [], {})),
        "retrieval_index": (0, ["all"], {}),
    }
    assert pool(unchanged).is_done


def test_a_run_says_of_each_asset_why_it_makes_tables_again(unchanged: Workspace) -> None:
    settings = unchanged.loaded(epsilon=0.5)
    sources, chosen = {"corpus": open_corpus_of(settings)}, {"corpus": [A, B]}
    told = partial(made_again, unchanged.instance, settings, sources, chosen)
    assert list(told(FROM_MAPS)) == [
        "verified_pairs: 2 tables made again: setting epsilon was 0.4, is 0.5",
        "packed_sequences: 2 tables made again: its input verified_pairs is stale",
    ]
    assert list(told(CORPUS_TABLES)) == []
    chosen["corpus"] = [A]
    assert "verified_pairs: 1 table made again: setting epsilon was 0.4, is 0.5" in told(FROM_MAPS)


@pytest.mark.parametrize(
    ("changes", "first", "reason", "dependent"),
    [
        ({"alpha": 1.25}, "entropy_maps", "setting alpha was 1.5, is 1.25", FROM_MAPS),
        ({"roots_per_shard": 3}, "entropy_maps", "setting roots_per_shard was 25, is 3", FROM_MAPS),
        (
            {"candidates_per_anchor": 3},
            "candidate_contexts",
            "setting candidates_per_anchor was 8, is 3",
            FROM_CANDIDATES,
        ),
        (
            {"retriever": "full_text"},
            "candidate_contexts",
            "setting retriever was 'dense', is 'full_text'",
            FROM_CANDIDATES,
        ),
        ({"epsilon": 0.3}, "verified_pairs", "setting epsilon was 0.4, is 0.3", FROM_PAIRS),
        ({"max_chunk_uses": 3}, "verified_pairs", "setting max_chunk_uses was 8, is 3", FROM_PAIRS),
        ({"long_model": "reference:short"}, "entropy_maps", "model changed: scorer", FROM_MAPS),
        ({"text_column": "body"}, "documents", "setting text_column was '', is 'body'", (*CORPUS_TABLES, *FROM_MAPS)),
        ({"chunk_tokens": 64}, "context_chunks", "setting chunk_tokens was 128, is 64", ("context_chunks", *FROM_MAPS)),
        ({"device": "cpu", "influence_alpha": 0.5, "shards_per_run": 3, "refresh_candidates": True}, "", "", ()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_of_the_corpus_marks_its_dependents_and_says_why(
    unchanged: Workspace, changes: dict[str, Any], first: str, reason: str, dependent: tuple[str, ...]
) -> None:
    found = stale(corpus(unchanged, **changes))
    assert set(found) == set(dependent)
    if first:
        assert reason in found[first]


def test_another_encoder_marks_vectors_and_candidates_not_entropies(unchanged: Workspace, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    found = stale(corpus(unchanged, encoder=f"sentence-transformers:{tmp_path}"))
    assert set(found) == {"context_chunks", *FROM_CANDIDATES}
    assert found["context_chunks"] == found["candidate_contexts"] == {"model changed: encoder"}
    assert found["packed_sequences"] == {"its input verified_pairs is stale"}


@pytest.mark.parametrize(
    ("changes", "first", "reason", "dependent"),
    [
        ({"influence_alpha": 0.5}, "influence_scores", "setting influence_alpha was 0.8, is 0.5", SELECTION),
        ({"cosine_normalisation": "none"}, "influence_scores", "setting cosine_normalisation", SELECTION),
        ({"segment_tokens": 64}, "cam_scores", "setting segment_tokens was 128, is 64", ("cam_scores", *SELECTION)),
        ({"hmg_form": "pair"}, "hmg_scores", "model changed: short_reader", ("hmg_scores", *SELECTION)),
        ({"short_window": 64}, "hmg_scores", "the short window was 512 tokens, is 64", ("hmg_scores", *SELECTION)),
        ({"context_cut": "middle"}, "hmg_scores", "setting context_cut", (*SCORES, *SELECTION)),
        (
            {"dtype": "bfloat16"},
            "cam_scores",
            "the dtype of the weights was float32, is bfloat16",
            (*SCORES, *SELECTION),
        ),
        ({"separator": "\n"}, "instruction_samples", "setting separator", (*SAMPLE_TABLES, *SELECTION)),
        ({"epsilon": 0.1, "alpha": 1.0}, "", "", ()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_of_the_pool_marks_its_dependents_and_says_why(
    unchanged: Workspace, changes: dict[str, Any], first: str, reason: str, dependent: tuple[str, ...]
) -> None:
    found = stale(pool(unchanged, **changes))
    assert set(found) == set(dependent)
    if first:
        assert any(why.startswith(reason) for why in found[first])


def test_a_changed_file_marks_its_shard_only(workspace: Workspace) -> None:
    workspace.write_shard(B, [{"id": "1", "text": "another text"}])
    status = corpus(workspace)
    assert [(a.asset, list(a.stale)) for a in status.assets if a.stale] == [
        (name, [B]) for name in (*CORPUS_TABLES, *SEQUENCE_TABLES)
    ]
    assert stale(status)["documents"] == {"source changed"}
    assert stale(status)["context_chunks"] == {"its input documents is stale"}


def test_a_raised_code_version_is_named(unchanged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "verified_pairs", replace(RECIPES["verified_pairs"], code_version="next"))
    found = stale(corpus(unchanged))
    assert set(found) == set(FROM_PAIRS)
    assert found["verified_pairs"] == {"code version was 1, is next"}


def test_an_input_that_was_made_anew_is_named(workspace: Workspace) -> None:
    tables = workspace.tables
    stamp = tables.require_stamp("candidate_contexts", A)
    tables.write(tables.read("candidate_contexts", A), replace(stamp, pinned={"index_tag": "other"}))
    found = stale(corpus(workspace))
    assert set(found) == set(FROM_SCORES)
    assert found["context_scores"] == {"input candidate_contexts was made anew"}


def test_a_stamp_from_before_reasons_were_kept_is_still_judged(workspace: Workspace) -> None:
    tables = workspace.tables
    stamp = replace(tables.require_stamp("documents", A), made_from={}, recipe="older")
    tables.write(tables.read("documents", A), stamp)
    assert "source changed" in " ".join(stale(corpus(workspace))["documents"])


def test_a_shard_without_tables_is_missing_and_one_beside_the_registered_is_named(workspace: Workspace) -> None:
    workspace.write_shard("c.jsonl", [{"text": "new"}])
    assert corpus(workspace).not_registered == ["c.jsonl"]
    workspace.register()
    status = corpus(workspace)
    assert all(a.missing == ["c.jsonl"] for a in status.assets if a.asset != "retrieval_index")
    (workspace.folder / "corpus" / B).unlink()
    assert corpus(workspace).gone == [B]
    assert stale(corpus(workspace))["documents"] == {"its file left the source"}


def test_a_pool_that_grew_makes_the_ranking_stale(workspace: Workspace) -> None:
    tables = workspace.tables
    before = tables.require_stamp("influence_scores"), tables.read("influence_scores")
    workspace.write_instructions("c.jsonl", [chat("c", "context", "question?", "answer")])
    workspace.register_instructions()
    assert not stale(pool(workspace)), "not before the new shard is scored"
    finish_pool(workspace, A, B, "c.jsonl")
    tables.write(before[1], before[0])
    assert stale(pool(workspace)) == {
        "influence_scores": {"the pool changed: 1 shard"},
        "selected_subsets": {"its input influence_scores is stale"},
    }


def test_every_stamp_is_read_once(unchanged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    plain = ShardTables._sound_stamp

    def counted(self: ShardTables, asset: str, partition: str) -> Any:
        read.append((asset, partition))
        return plain(self, asset, partition)

    monkeypatch.setattr(ShardTables, "_sound_stamp", counted)
    corpus(unchanged)
    assert len(read) == len(set(read)) == 2 * len((*CORPUS_TABLES, *SEQUENCE_TABLES, "packing_leftovers"))


def test_the_check_passes_where_all_is_done_and_else_says_what_is_not(unchanged: Workspace) -> None:
    assert status_result(pool(unchanged)).passed
    found = status_result(pool(unchanged, influence_alpha=0.5))
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.description == "influence_scores: stale: setting influence_alpha was 0.8, is 0.5: all"


def test_words_name_the_first_shards_or_all(workspace: Workspace) -> None:
    for number in range(8):
        workspace.write_shard(f"new-{number}.jsonl", [{"text": "new"}])
    workspace.register()
    text = "\n".join(in_words(corpus(workspace)))
    assert "documents: missing: new-0.jsonl, new-1.jsonl, new-2.jsonl, new-3.jsonl, new-4.jsonl and 3 more" in text
    assert "new-7.jsonl" not in text
    assert "new-7.jsonl" in "\n".join(in_words(corpus(workspace), all_names=True))


class TestCommand:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
        """A finished pool on the instance that the command line opens."""
        (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        with dg.DagsterInstance.get() as instance:
            workspace = Workspace(tmp_path, instance)
            for name in ("store", "corpus", "instructions"):
                monkeypatch.setenv(f"EL_{name.upper()}", workspace.settings[name])
            workspace.write_shard(A, [{"text": "text"}])
            workspace.write_instructions(A, [chat("a", "context", "question?", "answer")])
            register_shards(instance, open_instructions_of(Settings.load()), instruction_shards)
            finish_pool(workspace, A)
            yield workspace

    def test_codes_tell_done_from_not_done_from_broken(
        self, home: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["status", "--select", "gateau"]) == 0
        gateau = capsys.readouterr().out
        assert "hmg_scores" in gateau
        assert "documents" not in gateau
        assert main(["status", "--select", "index"]) == 1
        index = capsys.readouterr().out
        assert "context_chunks" in index
        assert "entropy_maps" not in index
        assert main(["status"]) == 1, "the corpus's shard is not even registered"
        said = capsys.readouterr().out
        assert "1 not registered: a.jsonl; `python -m el_assets register` registers them" in said
        monkeypatch.setenv("EL_INFLUENCE_ALPHA", "0.5")
        assert main(["status", "--select", "gateau"]) == 1
        assert "influence_scores: stale: setting influence_alpha was 0.8, is 0.5\n" in capsys.readouterr().out
        monkeypatch.setenv("EL_INFLUENCE_ALPHA", "high")
        assert main(["status"]) == 2

    def test_a_damaged_table_is_missing_and_a_source_that_cannot_be_listed_is_an_error(
        self, home: Workspace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        home.tables.path("hmg_scores", A).write_bytes(b"PAR1 cut")
        assert main(["status", "--select", "gateau"]) == 1
        assert "hmg_scores: missing: its file is cut short, or is no Parquet file: a.jsonl" in capsys.readouterr().out
        assert main(["status", "--instructions", "jsonl:absent"]) == 2

    def test_shards_that_are_not_registered_are_to_be_registered_and_no_job_to_be_run(
        self, home: Workspace, capsys: pytest.CaptureFixture[str]
    ) -> None:
        deregister_shards(home.instance, [A], instruction_shards)
        assert main(["status", "--select", "gateau"]) == 1
        said = capsys.readouterr().out
        assert "influence_scores: stale: no shard is registered; `python -m el_assets register` registers" in said
        assert "run job" not in said

    def test_json_holds_the_same_for_machines(self, home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
        main(["status", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert found["done"] is False
        assert found["sources"][0]["not_registered"] == [A]
        assert found["sources"][1]["assets"]["hmg_scores"] == {
            "done": 1,
            "missing": [],
            "missing_because": {},
            "stale": {},
        }
        assert registered_shards(home.instance, instruction_shards) == [A]

    def test_help_documents_the_codes(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["status", "--help"])
        assert "exit status: 0 everything is done; 1 something is missing" in capsys.readouterr().out
