"""The command line's errors, and runs whose process died: on real instances."""

import argparse
import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from el_assets.__main__ import main
from el_assets.cli.command_line import parser
from el_assets.cli.commands import _chosen
from el_assets.operations.failed_runs import PROCESS_TAG, _is_alive, close_lost_runs
from el_assets.partitions import registered_shards
from tests.conftest import library_documents, library_samples, write_json_lines


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Dagster home and working directory of its own; what the command line sets in the environment is undone."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.chdir(folder)
    for variable in ("EL_PROFILE", "EL_CORPUS", "EL_STORE"):
        monkeypatch.setenv(variable, "restored to absence afterwards")
        monkeypatch.delenv(variable)
    return folder


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


def asked_assets(instance: dg.DagsterInstance) -> list[set[str]]:
    """Assets of each backfill that the instance was handed, oldest first."""
    asked = [backfill.asset_backfill_data for backfill in reversed(instance.get_backfills())]
    return [{key.to_user_string() for key in data.target_subset.asset_keys} for data in asked if data]


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: COMMAND"),
            (["walk"], "invalid choice: 'walk'"),
            (["run", "--alpha", "2"], "unrecognized arguments: --alpha 2"),
        ],
    )
    def test_unknown_words_are_refused(
        self, home: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        assert raised.value.code == 2
        assert message in capsys.readouterr().err

    def test_help_names_the_variable_behind_an_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as raised:
            main(["run", "--help"])
        assert raised.value.code == 0
        shown = capsys.readouterr().out
        assert all(name in shown for name in ("--shards", "--force", "[EL_STORE]", "[EL_CORPUS]", "[EL_PROFILE]"))

    def test_every_command_and_option_says_what_it_does_and_names_its_default(self) -> None:
        (added,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
        for name, command in added.choices.items():
            assert command.description, name
            options = [action for action in command._actions if action.dest != "help"]
            assert [action.dest for action in options if not action.help] == [], name
            valued = [action for action in options if action.nargs != 0 and action.dest not in ("shard", "hosts")]
            assert [action.dest for action in valued if "default" not in str(action.help)] == [], name

    def test_the_examples_in_the_help_are_commands(self) -> None:
        (added,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
        epilogs = [str(one.epilog or "") for one in (parser(), *added.choices.values())]
        examples = [line.strip() for text in epilogs for line in text.splitlines() if line.startswith("  entropylong ")]
        assert len(examples) == 8
        for example in examples:
            parser().parse_args(shlex.split(example.split("   ")[0])[1:])

    def test_a_folder_without_dagster_yaml_is_no_home(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("DAGSTER_HOME")
        monkeypatch.chdir(home.parent)
        assert main(["register"]) == 2
        assert capsys.readouterr().err.startswith("error: no dagster.yaml here; run from the repository's root")

    @pytest.mark.parametrize(
        ("execution", "message"),
        [
            ("ray", "error: no deploy/dagster.yaml here; run from the repository's root"),
            ("slurm", "error: EL_EXECUTION='slurm' is unknown; choose one of ['local', 'ray']"),
        ],
    )
    def test_execution_chooses_the_instance(
        self,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        execution: str,
        message: str,
    ) -> None:
        monkeypatch.delenv("DAGSTER_HOME")
        monkeypatch.setenv("EL_EXECUTION", execution)
        assert main(["backfill"]) == 2
        assert capsys.readouterr().err.startswith(message)

    def test_a_backfill_is_of_everything_but_the_reports(self, home: Path, instance: dg.DagsterInstance) -> None:
        assert main(["backfill"]) == 0
        corpus, pool = asked_assets(instance)
        assert {"documents", "retrieval_index", "packed_sequences"} < corpus
        assert {"instruction_samples", "cam_scores", "influence_scores", "selected_subsets"} < pool
        assert not {"entropylong_report", "gateau_report"} & (corpus | pool)

    def test_a_backfill_has_the_reports_on_its_parts_where_they_are_asked_for(
        self, home: Path, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["backfill", "--select", "index,gateau,reports"]) == 0
        corpus, pool = asked_assets(instance)
        assert corpus == {"documents", "context_chunks", "retrieval_index"}
        assert "gateau_report" in pool
        for alone in ("reports", "index,reports"):
            assert main(["backfill", "--select", alone]) == 2
            assert "reports are made after a backfill of entropylong or gateau; select one" in capsys.readouterr().err

    def test_a_backfill_of_corpus_shards_does_not_rank_the_pool(self, home: Path, instance: dg.DagsterInstance) -> None:
        assert main(["backfill", "--shards", "python-docs-0"]) == 0
        (corpus,) = asked_assets(instance)
        assert "packed_sequences" in corpus

    def test_a_backfill_is_of_the_subsets_that_are_asked_for(self, home: Path, instance: dg.DagsterInstance) -> None:
        assert main(["backfill", "--select", "gateau", "--subsets", "top_10_percent,top_50_percent"]) == 0
        (backfill,) = instance.get_backfills()
        assert backfill.asset_backfill_data
        subset = backfill.asset_backfill_data.target_subset.get_partitions_subset(dg.AssetKey("selected_subsets"))
        assert set(subset.get_partition_keys()) == {"top_10_percent", "top_50_percent"}

    @pytest.mark.parametrize("command", ["run", "backfill", "status"])
    def test_an_unknown_subset_is_refused_with_those_that_there_are(
        self, home: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([command, "--subsets", "top_20_percent"]) == 2
        assert "unknown subset 'top_20_percent'; there are top_10_percent, top_30" in capsys.readouterr().err

    def test_a_home_that_is_not_there_is_named(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DAGSTER_HOME", str(home / "absent"))
        assert main(["register"]) == 2
        assert "absent' is not a folder" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--profile", "papers"], "profile 'papers' is unknown"),
            (["--corpus", "ftp:x"], "corpus 'ftp:x' has no known scheme"),
            (["--corpus", "jsonl:absent"], "absent"),
            (["--store", ""], "store (EL_STORE) = ''"),
        ],
    )
    def test_bad_settings_end_with_2_and_words(
        self, home: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for command in ("register", "run"):
            assert main([command, *options]) == 2
            found = capsys.readouterr().err
            assert found.startswith("error: ")
            assert message in found

    def test_an_unknown_shard_lists_those_of_the_corpus(
        self, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.jsonl").write_text('{"text": "some text"}\n')
        assert main(["run", "--select", "index", "--corpus", f"jsonl:{tmp_path}", "--shards", "../x"]) == 2
        assert capsys.readouterr().err == "error: unknown shard '../x'; there are a.jsonl\n"

    def test_registering_is_seen_by_the_instance(
        self, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for number in range(8):
            (tmp_path / f"{number}.jsonl").write_text('{"text": "some text"}\n')
        assert main(["register", "--corpus", f"jsonl:{tmp_path}"]) == 0
        assert "registered: 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl and 3 more\n" in capsys.readouterr().out
        with dg.DagsterInstance.get() as instance:
            assert registered_shards(instance) == [f"{number}.jsonl" for number in range(8)]


class TestReports:
    """Runs of the whole command, each with settings of its own in the environment."""

    @pytest.fixture
    def run(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str, str]]:
        """`run` with arguments and settings, on a corpus of two shards that hold one root each; returns the status,
        the output and the errors."""
        for number, name in enumerate(("a.jsonl", "b.jsonl")):
            write_json_lines(tmp_path / "corpus" / name, library_documents(2, offset=2 * number))
        write_json_lines(tmp_path / "pool" / "questions.jsonl", library_samples(1))
        settings = {
            "EL_STORE": str(tmp_path / "store"),
            "EL_CORPUS": f"jsonl:{tmp_path / 'corpus'}",
            "EL_INSTRUCTIONS": f"jsonl:{tmp_path / 'pool'}",
            "EL_ROOTS_PER_SHARD": "1",
            "EL_ROOT_TOKENS_MIN": "64",
            "EL_CANDIDATES_PER_ANCHOR": "2",
            "EL_MAX_ANCHORS": "2",
            "EL_ALPHA": "0.5",
        }

        def run(*arguments: str, **more: str) -> tuple[int, str, str]:
            with monkeypatch.context() as patch:
                for name, value in {**settings, **more}.items():
                    patch.setenv(name, value)
                capsys.readouterr()
                return main(["run", *arguments]), *capsys.readouterr()

        return run

    def test_a_run_ends_with_the_reports_that_can_be_made(
        self, run: Callable[..., tuple[int, str, str]], tmp_path: Path
    ) -> None:
        status, _, errors = run("--select", "reports")
        assert status == 2
        assert "nothing to report on; run the parts entropylong or gateau first" in errors

        status, output, errors = run("--select", "index,entropylong,reports")
        assert status == 0, errors
        path = tmp_path / "store" / "reports" / "entropylong_report.html"
        assert [line.split() for line in output.splitlines() if "report " in line] == [["report", str(path)]]
        assert [file.name for file in path.parent.iterdir()] == [path.name]

        # Other settings for one shard: a report over both has no numbers that mean anything.
        implied = run("--shards", "b.jsonl", EL_EPSILON="0.2")
        asked = run("--select", "reports", EL_EPSILON="0.2")
        assert (implied[0], asked[0]) == (0, 1)
        for _, _, errors in (implied, asked):
            assert "entropylong_report was not made: " in errors
            assert "epsilon is 0.4 in 'a.jsonl' and 0.2 in 'b.jsonl'" in errors


class TestChosenShards:
    REGISTERED = ("a", "b", "c d")

    @pytest.mark.parametrize(
        ("asked", "chosen"), [(None, ["a", "b", "c d"]), ("b", ["b"]), (" c d , a,", ["a", "c d"]), ("a,a", ["a"])]
    )
    def test_are_those_asked_for_in_registration_order(self, asked: str | None, chosen: list[str]) -> None:
        assert _chosen(asked, list(self.REGISTERED)) == chosen

    @pytest.mark.parametrize(("asked", "named"), [("a,x,y", "'x', 'y'"), ("", "''"), (" , ", "' , '"), ("A", "'A'")])
    def test_unknown_ones_are_named(self, asked: str, named: str) -> None:
        with pytest.raises(ValueError, match=f"unknown shard {named}; there are a, b, c d"):
            _chosen(asked, list(self.REGISTERED))


@dg.job
def job_of_a_lost_process() -> None:
    """Only its runs matter."""


def started_run(instance: dg.DagsterInstance, process: str) -> str:
    """A run that the instance believes is going on in a process, with a place in a pool."""
    run = instance.create_run_for_job(
        job_of_a_lost_process, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: process} if process else {}
    )
    instance.event_log_storage.set_concurrency_slots(run.run_id, 1)
    instance.event_log_storage.claim_concurrency_slot(run.run_id, run.run_id, "step")
    return run.run_id


def finished_process() -> int:
    """The id of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_process_is_alive_until_it_has_ended() -> None:
    assert _is_alive(os.getpid())
    assert not _is_alive(finished_process())


def test_runs_of_lost_processes_are_failed_and_give_their_place_back(instance: dg.DagsterInstance) -> None:
    here = socket.gethostname()
    lost = [
        started_run(instance, f"{here}:{finished_process()}"),
        started_run(instance, f"{here}:{os.getpid()}"),  # an earlier process of a container that counts from 1 again
    ]
    others = [
        started_run(instance, f"{here}:{os.getppid()}"),
        started_run(instance, f"other-{here}:{finished_process()}"),
        started_run(instance, ""),
    ]
    close_lost_runs(instance)

    def state(run_id: str) -> tuple[str, int]:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        return run.status.value, instance.event_log_storage.get_concurrency_info(run_id).active_slot_count

    assert [state(run_id) for run_id in lost] == [("FAILURE", 0)] * 2
    assert [state(run_id) for run_id in others] == [("STARTED", 1)] * 3
