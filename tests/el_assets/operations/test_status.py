"""The state of tables in words, as a check of the index page, and as the command `status` prints it."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from el_assets.__main__ import main
from el_assets.gateau.assets import open_instructions_of
from el_assets.operations.status import in_words
from el_assets.operations.status_checks import status_result
from el_assets.partitions import deregister_shards, instruction_shards, register_shards, registered_shards
from el_resources.settings import Settings
from tests.conftest import Workspace, chat
from tests.support.finished_tables import A, corpus, finish_pool, pool


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
        damaged = "hmg_scores: missing: its file is cut short, or is not a Parquet file: a.jsonl"
        assert damaged in capsys.readouterr().out
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
        assert "exit status:\n  0    everything is done\n  1    something is missing" in capsys.readouterr().out
