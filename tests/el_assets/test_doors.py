"""Settings as users give them: by the shell, by `.env`, by a flag, by a profile. What a run was told is what it did."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from el_assets.__main__ import main
from el_assets.catalogue import RECIPES
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp
from tests.conftest import library_documents, library_samples, tiny_model, write_json_lines

CHOICES = {
    "EL_CRITERION": "nll",
    "EL_RETRIEVER": "hybrid",
    "EL_QUERY_SIDE": "before",
    "EL_DTYPE": "float32",
    "EL_CONTEXT_CUT": "middle",
    "EL_HMG_FORM": "pair",
    "EL_IMPORTANCE_SIGN": "negative_ppl",
    "EL_COSINE_NORMALISATION": "none",
    "EL_HMP_NORMALISATION": "rank",
    "EL_INFLUENCE_PERPLEXITY": "ppl",
    "EL_INFLUENCE_SCALE": "minmax",
    "EL_BEATS_CONTROLS": "false",
}
SMALL = {
    "EL_ROOTS_PER_SHARD": "2",
    "EL_ROOT_TOKENS_MIN": "32",
    "EL_CANDIDATES_PER_ANCHOR": "2",
    "EL_MAX_ANCHORS": "2",
    "EL_ALPHA": "0.5",
}


class Place:
    """A folder with sources, models and a Dagster instance, in which commands are run as from a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("long", "short"):
            tiny_model(folder / name, seed=len(name))
        write_json_lines(folder / "corpus" / "a.jsonl", library_documents(6))
        write_json_lines(folder / "pool" / "q.jsonl", library_samples(10))
        (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        self.settings = {
            **SMALL,
            "EL_STORE": str(folder / "store"),
            "EL_CORPUS": f"jsonl:{folder / 'corpus'}",
            "EL_INSTRUCTIONS": f"jsonl:{folder / 'pool'}",
            "EL_LONG_MODEL": str(folder / "long"),
            "EL_SHORT_MODEL": str(folder / "short"),
        }

    def stamp(self, table: str, partition: str = "a.jsonl", store: str = "store") -> Stamp:
        return ShardTables(str(self.folder / store)).require_stamp(table, partition)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def command(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs a command in the place, with variables of the shell."""
    monkeypatch.chdir(place.folder)
    monkeypatch.setenv("DAGSTER_HOME", str(place.folder))

    def command(*arguments: str, **shell: str) -> int:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in shell.items():
                environment.setenv(name, value)
            return main(list(arguments))

    yield command
    (place.folder / ".env").unlink(missing_ok=True)


def test_choices_of_the_shell_reach_the_tables_and_status_calls_them_done(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    told = {**place.settings, **CHOICES}
    assert command("run", "--select", "index,entropylong,gateau", **told) == 0, capsys.readouterr().err
    stamps = [
        *(place.stamp(table) for table in ("candidate_contexts", "verified_pairs")),
        *(place.stamp(table, "q.jsonl") for table in ("hmg_scores", "cam_scores")),
        place.stamp("influence_scores", "all"),
    ]
    made_under = {name: value for stamp in stamps for name, value in stamp.settings.items()}
    recipes = {name for recipe in RECIPES.values() for name in recipe.settings}
    for variable, value in CHOICES.items():
        name = variable.removeprefix("EL_").lower()
        if name in recipes:
            assert str(made_under[name]).lower() == value, variable
    kept = pl.read_parquet(place.folder / "store" / "tables" / "verified_pairs" / "a.jsonl.parquet")
    assert all(min(row) > 0.4 for row in kept["nll_reductions"]), "kept by what the criterion says"
    assert command("status", **told) == 0, capsys.readouterr().out
    assert command("status", **{**told, "EL_CRITERION": "both"}) == 1
    assert "setting criterion was 'nll', is 'both'" in capsys.readouterr().out


def test_the_file_is_what_every_command_reads_and_wins_over_the_shell(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {**place.settings, "EL_STORE": str(place.folder / "other"), "EL_EPSILON": "0.2"}
    (place.folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in lines.items()))
    shell = {"EL_EPSILON": "0.9", "EL_CORPUS": "python-docs:"}
    assert command("register", **shell) == 0
    assert "1 shards of jsonl:" in capsys.readouterr().out
    assert command("run", "--select", "index,entropylong", **shell) == 0
    assert place.stamp("verified_pairs", store="other").settings["epsilon"] == 0.2
    capsys.readouterr()
    assert command("status", "--select", "index,entropylong", **shell) == 0, capsys.readouterr().out
    capsys.readouterr()
    assert command("settings", "--json", **shell) == 0
    shown = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert (shown["epsilon"]["value"], shown["epsilon"]["from"]) == (0.2, ".env")
    assert (shown["alpha"]["value"], shown["seed"]["from"]) == (0.5, "default")


def test_the_profile_of_a_flag_is_the_profile_of_the_run(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"EL_ENCODER": "reference-idf", "EL_SEQUENCE_TOKENS": "512", "EL_CHUNK_TOKENS": "64"}
    told = {name: value for name, value in place.settings.items() if name not in SMALL}
    told = {**told, **small, "EL_STORE": str(place.folder / "paper")}
    assert command("run", "--profile", "paper", "--select", "index,entropylong", **told) == 0, capsys.readouterr().err
    settings = place.stamp("packed_sequences", store="paper").settings
    paper = {"alpha": 2.0, "beats_controls": False, "candidates_per_anchor": 32, "max_anchors": 0, "skip_tokens": 0}
    assert {name: settings[name] for name in paper} == paper
    assert settings["sequence_tokens"] == 512, "the shell wins over the profile"
    assert command("settings", "--profile", "paper", **told) == 0
    table = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if line.startswith("EL_"))
    assert table["EL_ALPHA"].split() == ["profile", "paper", "2.0"]
    assert table["EL_PROFILE"].split() == ["flag", '"paper"']
    assert table["EL_SEED"].split() == ["default", "0"]


def test_flags_are_said_to_be_seen_by_this_command_only_and_are_recorded_in_its_runs(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    told = {name: value for name, value in place.settings.items() if name not in ("EL_STORE", "EL_CORPUS")}
    flags = ["--corpus", place.settings["EL_CORPUS"], "--store", str(place.folder / "by flag")]
    assert command("run", "--select", "index", *flags, **told) == 0
    said = capsys.readouterr().out
    assert "make ui" not in said
    assert f"EL_CORPUS={place.settings['EL_CORPUS']}" in said
    assert f"EL_STORE='{place.folder / 'by flag'}'" in said
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs(dg.RunsFilter(job_name="build_index"), limit=1)
        config: Any = run.run_config["resources"]["settings"]["config"]
    assert config["store"] == str(place.folder / "by flag")
    # The lines do what they say.
    lines = [line.split("look at it")[-1].strip() for line in said.splitlines() if " EL_" in line]
    (place.folder / ".env").write_text("\n".join(lines) + "\n")
    assert command("status", "--select", "index", **told) == 0, capsys.readouterr().out


def test_a_flag_mends_what_the_shell_has_wrong(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    told = {**place.settings, "EL_PROFILE": "papers"}
    assert command("register", **told) == 2
    capsys.readouterr()
    assert command("register", "--profile", "reference", **told) == 0
    assert "EL_PROFILE=reference" in capsys.readouterr().out


def test_a_store_that_is_a_file_is_refused_with_its_variable(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("status", "run"):
        assert command(name, "--store", str(place.folder / "dagster.yaml"), **place.settings) == 2
        assert "dagster.yaml' is a file; set EL_STORE to a folder" in capsys.readouterr().err


def test_another_corpus_is_registered_with_a_word_and_a_faulty_one_is_not(
    place: Place, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = place.folder / "one", place.folder / "two"
    for name in ("a", "b", "c"):
        write_json_lines(one / f"{name}.jsonl", library_documents(1))
    write_json_lines(other / "z.jsonl", library_documents(1))
    assert command("register", "--corpus", f"jsonl:{one}", **place.settings) == 0
    capsys.readouterr()
    assert command("register", "--corpus", f"jsonl:{other}", **place.settings) == 0
    assert f"3 shards of jsonl:{one}, registered before, are not registered any more: a" in capsys.readouterr().out
    assert command("run", "--select", "index", "--corpus", f"jsonl:{one}", **place.settings) == 0
    for name in ("b", "c"):
        (one / f"{name}.jsonl").unlink()
    capsys.readouterr()
    assert command("register", "--corpus", f"jsonl:{one}", **place.settings) == 2
    assert "2 of 3 registered shards are gone from" in capsys.readouterr().err
    allowed = {**place.settings, "EL_REMOVE_MANY_SHARDS": "true"}
    assert command("register", "--corpus", f"jsonl:{one}", **allowed) == 0
    assert "2 shards whose files are gone are not registered any more: b.jsonl, c.jsonl" in capsys.readouterr().out


def test_the_installed_command_is_the_module() -> None:
    script = Path(sys.executable).parent / "entropylong"
    for command in ([str(script)], [sys.executable, "-m", "el_assets"]):
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout == f"entropylong {version('entropylong')}\n"


def test_a_misspelt_variable_is_refused_by_every_command_with_the_nearest_name(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", "register", "status", "settings", "backfill"):
        assert command(name, EL_EPSILONN="0.2") == 2
        assert "unknown setting EL_EPSILONN (did you mean EL_EPSILON?)" in capsys.readouterr().err
