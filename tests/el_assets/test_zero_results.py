"""Runs that make nothing, as a user starts them: the command says why and what to change, and no scored table is lost.

Settings are in the environment; the model is tiny and random.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import polars as pl
import pytest

from el_assets.__main__ import main
from el_assets.operations.status import problems, status_of
from el_assets.sources import KINDS
from tests.conftest import SEQUENCE_ASSETS, Workspace, failed_checks, forwards, library_documents, tiny_model
from tests.support.small_settings import RANDOM_MODEL, as_environment

ROOT = Path(__file__).parents[2]
A, B, C = "a.jsonl", "b.jsonl", "c.jsonl"


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace], tmp_path: Path) -> Workspace:
    made = new_workspace(**RANDOM_MODEL, long_model=str(tiny_model(tmp_path / "model")))
    shutil.copy(ROOT / "dagster.yaml", made.folder)
    return made


@pytest.fixture(scope="module")
def template(new_module_workspace: Callable[..., Workspace], tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two shards, from documents to packed sequences; to be copied, not changed."""
    made = new_module_workspace(**RANDOM_MODEL, long_model=str(tiny_model(tmp_path_factory.mktemp("model"))))
    made.write_shard(A, library_documents(4))
    made.write_shard(B, library_documents(4, offset=6))
    made.register()
    made.run("build_index")
    made.run("build_sequences")
    return made


@pytest.fixture
def finished(template: Workspace, workspace: Workspace) -> Workspace:
    """A copy of the template's corpus and store."""
    for name in ("corpus", "store"):
        shutil.copytree(template.folder / name, workspace.folder / name)
    workspace.settings["long_model"] = template.settings["long_model"]
    workspace.register()
    assert not_done(workspace) == {}
    return workspace


class Said(NamedTuple):
    """The end of a command, and all that it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`python -m el_assets run` on a workspace's corpus and store, its settings in the environment."""

    def run(workspace: Workspace, *arguments: str, **changed: object) -> Said:
        with monkeypatch.context() as patch:
            patch.chdir(workspace.folder)
            patch.setenv("DAGSTER_HOME", str(workspace.folder))
            for name, value in as_environment({**workspace.settings, **changed}).items():
                patch.setenv(name, value)
            capsys.readouterr()
            status = main(["run", *arguments])
        return Said(status, *capsys.readouterr())

    return run


def tables_of(workspace: Workspace, assets: Sequence[str]) -> dict[str, bytes]:
    folders = [Path(workspace.settings["store"]) / "tables" / asset for asset in assets]
    return {str(path): path.read_bytes() for folder in folders for path in sorted(folder.rglob("*.parquet"))}


def not_done(workspace: Workspace, **changed: object) -> dict[str, list[str]]:
    """Return the reasons for which tables of the sequences are stale or missing."""
    status = status_of(KINDS["corpus"], workspace.instance, workspace.loaded(**changed)).only(SEQUENCE_ASSETS)
    return {asset.asset: sorted(problems(asset)) for asset in status.assets if not asset.is_done}


def cause(result: dg.ExecuteInProcessResult, asset: str) -> str:
    """The message of the error that ended an asset's step."""
    failure = result.failure_data_for_node(asset)
    assert failure is not None
    assert failure.error is not None
    assert failure.error.cause is not None
    return failure.error.cause.message


def warnings(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.strip().startswith("warning: ")]


def line_of(output: str, label: str) -> str:
    """The value next to a label of the summary."""
    (line,) = (line.strip() for line in output.splitlines() if line.strip().startswith(f"{label}  "))
    return line.removeprefix(label).strip()


def test_a_corpus_of_long_documents_says_why_it_gives_no_sequence(
    workspace: Workspace, shell: Callable[..., Said]
) -> None:
    story = "The river rose in the night, and by morning the mill stood in water up to its second window. "
    long = [{"id": f"chapter {n}", "text": f"Chapter {n}. " + story * 20} for n in range(4)]
    workspace.write_shard(A, [*long, {"id": "motto", "text": "Water finds its way."}])
    made = shell(workspace, "--select", "index,entropylong,reports")
    why = (
        "4 of 5 documents are longer than root_tokens_max=300: raise EL_ROOT_TOKENS_MAX (0: no limit); "
        "1 of 5 documents are shorter than root_tokens_min=64: lower EL_ROOT_TOKENS_MIN"
    )
    assert made.returncode == 0, made.stderr
    assert warnings(made.stdout)[-1] == f"warning: no sequence: {why}"
    assert made.stdout.strip().endswith(why), "it is the last thing that is read"
    assert "0 of 0 eligible (not eligible: too_long_for_root_tokens_max 4, too_short 1)" in made.stdout
    facts = workspace.tables.require_stamp("entropy_maps", A).facts
    assert facts["documents_not_eligible"] == {"too_long_for_root_tokens_max": 4, "too_short": 1}
    page = (Path(workspace.settings["store"]) / "reports" / "entropylong_report.html").read_text()
    assert json.dumps(why)[1:-1] in page
    assert "not eligible: too_long_for_root_tokens_max 4, too_short 1" in page


def test_another_length_of_sequences_costs_packing_only(finished: Workspace, shell: Callable[..., Said]) -> None:
    """Half of such a sequence is shorter than every root, and most roots are longer than all of it."""
    scored = tables_of(finished, SEQUENCE_ASSETS[:-1])
    assert len(scored) == 8
    made = shell(finished, "--select", "entropylong", sequence_tokens=100)
    assert made.returncode == 0, made.stderr
    assert line_of(made.stdout, "forwards in this run") == "0"
    assert line_of(made.stdout, "sequences").endswith("of 100 tokens, 0 to 0 a shard")
    assert tables_of(finished, SEQUENCE_ASSETS[:-1]) == scored
    assert not_done(finished, sequence_tokens=100) == {}
    for shard in (A, B):
        lengths = finished.tables.read("entropy_maps", shard)["token_ids"].list.len()
        left = finished.tables.read("packing_leftovers", shard)
        too_long = left.filter(pl.col("reason") == "root_longer_than_sequence").height
        assert too_long == (lengths >= 100).sum() > 0
        counted = finished.tables.require_stamp("packed_sequences", shard).facts["leftovers"]
        assert counted["root_longer_than_sequence"] == too_long


def test_scored_tables_are_replaced_by_empty_ones_only_if_that_is_meant(
    finished: Workspace, shell: Callable[..., Said]
) -> None:
    before = finished.files()
    stopped = shell(finished, "--select", "entropylong", root_tokens_max=64)
    assert stopped.returncode == 1
    assert (
        "entropy_maps of 2 shards, which a model has scored, would be replaced by empty tables; they were left as they "
        "are. Undo the change that emptied them, or run again with --replace-by-empty (EL_REPLACE_BY_EMPTY=true) if it "
        "is intended: 'a.jsonl' (3 rows, root_tokens_max was 300, is 64): 4 of 4 documents are longer than "
        "root_tokens_max=64: raise EL_ROOT_TOKENS_MAX (0: no limit) 'b.jsonl' (3 rows"
    ) in " ".join(stopped.stderr.split())
    assert finished.files() == before
    assert not_done(finished) == {}
    stale = not_done(finished, root_tokens_max=64)
    assert stale["entropy_maps"] == ["stale: setting root_tokens_max was 300, is 64"]
    assert stale["packed_sequences"] == ["stale: its input verified_pairs is stale, and 1 more"]

    meant = shell(finished, "--select", "entropylong", "--replace-by-empty", root_tokens_max=64)
    assert meant.returncode == 0, meant.stderr
    assert [finished.tables.read("entropy_maps", shard).height for shard in (A, B)] == [0, 0]


def test_a_source_file_that_was_emptied_does_not_wipe_its_scores(finished: Workspace) -> None:
    good = (finished.folder / "corpus" / A).read_bytes()
    maps, scores = finished.tables.read("entropy_maps", A), finished.tables.read("context_scores", A)
    (finished.folder / "corpus" / A).write_bytes(b"")
    finished.write_shard(B, library_documents(5, offset=6))
    assert finished.run("build_index").success
    error = cause(finished.run("build_sequences", raises=False), "entropy_maps")
    assert f"'a.jsonl' ({maps.height} rows): the source holds no documents" in error
    assert "The other 1 shards of entropy_maps are made" in error
    assert finished.tables.read("entropy_maps", A).equals(maps)
    made_from = finished.tables.require_stamp("entropy_maps", B).made_from["documents"]
    assert made_from == finished.tables.require_stamp("documents", B).fingerprint
    assert not_done(finished)["entropy_maps"] == ["stale: input documents was made again"]

    # The file is repaired: what was scored is still good.
    (finished.folder / "corpus" / A).write_bytes(good)
    finished.run("build_index")
    assert forwards(finished.run("build_sequences", A)) == 0
    assert finished.tables.read("context_scores", A).equals(scores)


def test_a_source_file_that_cannot_be_read_keeps_its_tables_and_stops_no_other_shard(finished: Workspace) -> None:
    file = finished.folder / "corpus" / A
    good, before = file.read_bytes(), finished.files()
    file.write_bytes(b"PK\x03\x04 no text \xff\xfe")
    finished.write_shard(C, library_documents(3, offset=9))
    finished.register()
    built = finished.run("build_index")
    assert built.success and "sources_are_readable" in failed_checks(built)
    made = finished.run("build_sequences")
    assert made.success
    assert finished.tables.read("context_scores", C).height, "the new shard is finished"
    kept = [name for name in before if A in name and "documents" not in name]
    assert len(kept) >= 7 and all(finished.files()[name] == before[name] for name in kept)
    assert finished.tables.read("documents", A)["set_aside_reason"].null_count() == 4
    assert forwards(finished.run("build_sequences")) == 0

    status = status_of(KINDS["corpus"], finished.instance, finished.loaded())
    assert all(asset.is_done for asset in status.assets), "it is not tried again as long as the file stays so"
    assert list(status.unreadable) == [A] and not status.is_done
    file.write_bytes(good)
    assert forwards(finished.run("build_index")) + forwards(finished.run("build_sequences")) == 0
    assert status_of(KINDS["corpus"], finished.instance, finished.loaded()).is_done


def test_candidates_that_all_vanished_do_not_wipe_context_scores(finished: Workspace) -> None:
    before = finished.tables.read("context_scores", A)
    error = cause(finished.run("build_sequences", raises=False, alpha=20.0), "context_scores")
    assert "none of the 3 roots has an anchor" in error
    assert "lower EL_ALPHA" in error
    assert finished.tables.read("context_scores", A).equals(before)
    assert finished.run("build_sequences", alpha=20.0, replace_by_empty=True).success
    assert finished.tables.read("context_scores", A).is_empty()


def test_a_shard_that_never_had_scores_may_be_empty_and_a_check_says_why(workspace: Workspace) -> None:
    workspace.write_shard(A, library_documents(2))
    workspace.write_shard(B, [{"id": "one", "text": "A text that is shorter than a root."}])
    workspace.register()
    workspace.run("build_index")
    made = workspace.run("build_sequences", B)
    assert made.success
    assert {"shards_have_roots", "shards_fill_sequences"} <= failed_checks(made)
    found = {check.check_name: check for check in made.get_asset_check_evaluations()}
    why = "1 of 1 documents are shorter than root_tokens_min=64: lower EL_ROOT_TOKENS_MIN"
    for name in ("shards_have_roots", "shards_fill_sequences"):
        assert found[name].severity.value == "WARN"
        assert why in str(found[name].description)
