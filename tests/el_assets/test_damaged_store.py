"""Damaged tables of a whole store, as a user meets them: `status` names each fault, `run` makes the tables again.

One store of both methods is made once; each test breaks a copy of it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from el_assets.__main__ import main
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import STAMP_KEY, Stamp
from tests.conftest import Workspace, library_documents, library_samples, tiny_model
from tests.support.small_settings import RANDOM_MODEL, as_environment
from tests.support.ticks import asked_range, schedule_tick

ROOT = Path(__file__).parents[2]
A, B = "a.jsonl", "b.jsonl"
SETTINGS = {**RANDOM_MODEL, "roots_per_shard": 2, "sequence_tokens": 400}
PARTITIONS = {"influence_scores": "all", "selected_subsets": "top_10_percent"}
TABLES = [
    "documents",
    "context_chunks",
    "entropy_maps",
    "candidate_contexts",
    "context_scores",
    "verified_pairs",
    "packed_sequences",
    "packing_leftovers",
    "instruction_samples",
    "hmg_scores",
    "cam_scores",
    "influence_scores",
    "selected_subsets",
]


def environment_of(folder: Path) -> dict[str, str]:
    settings = {**SETTINGS, "store": folder / "store", "long_model": folder.parent / "model", "short_window": 256}
    sources = {"corpus": f"jsonl:{folder / 'corpus'}", "instructions": f"jsonl:{folder / 'instructions'}"}
    return as_environment({**settings, **sources})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources, a finished store and the Dagster instance that made it; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    folder.mkdir()
    tiny_model(folder.parent / "model")
    with dg.DagsterInstance.ephemeral() as instance:
        workspace = Workspace(folder, instance)
        for number, name in enumerate((A, B)):
            workspace.write_shard(name, library_documents(3, offset=4 * number))
            workspace.write_instructions(name, library_samples(2, offset=4 * number))
    shutil.copy(ROOT / "dagster.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        assert main(["run", "--select", "index,entropylong,gateau"]) == 0
    return folder


@pytest.fixture
def folder(template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the template at the template's own place, since tables know their sources by address."""
    kept = template.parent / "kept"
    shutil.copytree(template, kept)
    enter(template, monkeypatch)
    yield template
    shutil.rmtree(template)
    kept.rename(template)


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    patch.setenv("DAGSTER_HOME", str(folder))
    for name, value in environment_of(folder).items():
        patch.setenv(name, value)


def file_of(folder: Path, table: str) -> Path:
    return Path(str(ShardTables(str(folder / "store")).path(table, PARTITIONS.get(table, A))))


def content_of(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    tables = ShardTables(str(folder / "store"))
    return {name: tables.read(name, PARTITIONS.get(name, A)).rows() for name in TABLES}


def cut_short(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-40])
    return "cut short"


def emptied(path: Path) -> str:
    path.write_bytes(b"")
    return "its file is empty"


def newer(path: Path) -> str:
    stamp = pl.read_parquet_metadata(path)[STAMP_KEY].replace('"asset"', '"licences": [], "asset"', 1)
    found = {**json.loads(stamp)}
    del found["file_digest"]
    pl.read_parquet(path).write_parquet(path, metadata={STAMP_KEY: json.dumps(found)})
    return "its stamp is of a newer version of this project, with licences"


def of_broken_stamp(path: Path) -> str:
    pl.read_parquet(path).write_parquet(path, metadata={STAMP_KEY: "{"})
    return "its stamp is broken"


def page_flipped(path: Path) -> str:
    content = bytearray(path.read_bytes())
    content[30] ^= 4
    path.write_bytes(content)
    return "digest differs"


def forged(path: Path) -> str:
    frame, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
    pl.concat([frame, frame]).write_parquet(path, metadata={STAMP_KEY: metadata[STAMP_KEY]})
    return "digest differs"


DAMAGES: list[Callable[[Path], str]] = [cut_short, emptied, newer, of_broken_stamp, page_flipped, forged]


@pytest.mark.parametrize("turn", range(3))
def test_status_names_every_damaged_table_and_run_makes_it_again(
    folder: Path, turn: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """All tables of one shard; in three turns each kind of damage is done to every other table."""
    before = content_of(folder)
    kinds = {name: DAMAGES[(number + 2 * turn) % len(DAMAGES)] for number, name in enumerate(TABLES)}
    words = {name: damage(file_of(folder, name)) for name, damage in kinds.items()}
    capsys.readouterr()
    assert main(["status", "--verify"]) == 1
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    for name in set(words) - {"packing_leftovers"}:
        (line,) = [line for line in shown.out.splitlines() if line.strip().startswith(f"{name}: missing")]
        assert words[name] in line, name
    assert main(["run", "--select", "index,entropylong,gateau"]) == 0
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    for name in set(words) - {"packing_leftovers", *PARTITIONS}:
        (line,) = [line for line in shown.out.splitlines() if line.startswith(f"{name}: 1 table made again: ")]
        assert words[name] in line, name
    assert main(["status", "--verify"]) == 0
    assert content_of(folder) == before


def test_a_shard_whose_input_is_damaged_is_named_and_stops_no_look(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("el_resources.store.shard_tables._told", set())  # a run is a process of its own
    page_flipped(file_of(folder, "hmg_scores"))
    assert main(["status", "--select", "gateau"]) == 0, "a look without --verify reads no rows"
    assert main(["run", "--select", "gateau", "--shards", B]) == 0
    assert f"table 'hmg_scores' of {A!r} counts as missing: its content is not what was written" in caplog.text
    stamp = ShardTables(str(folder / "store")).require_stamp("influence_scores")
    assert isinstance(stamp, Stamp)
    assert stamp.facts["shards"] == [B]


def test_orphans_of_killed_writers_are_cleaned_by_the_next_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("el_resources.store.whole_files._swept", set())  # a run is a process of its own
    orphan = file_of(folder, "verified_pairs").with_name(".a.jsonl.parquet.0000.tmp")
    orphan.write_bytes(b"half")
    os.utime(orphan, (1, 1))
    assert main(["run", "--select", "entropylong", "--force"]) == 0
    assert not orphan.exists()


def test_a_schedule_asks_for_the_chunks_in_whose_bytes_a_run_found_damage(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page_flipped(file_of(folder, "context_chunks"))
    with dg.DagsterInstance.get() as instance:
        workspace = Workspace(folder, instance, {**SETTINGS, "long_model": str(folder.parent / "model")})
        assert not schedule_tick(workspace, "backfill_index").run_requests, "a tick reads no bytes"
    capsys.readouterr()
    assert main(["run", "--select", "index", "--shards", B]) == 1
    told = capsys.readouterr().err
    assert f"retrieval_index: context_chunks of {A} are damaged" in told
    command = f"python -m el_assets run --select index --shard {A}"
    assert f"make them again with `{command}`" in told
    monkeypatch.setattr("el_resources.store.hashing._known", {})  # the schedule's is another process
    with dg.DagsterInstance.get() as instance:
        workspace = Workspace(folder, instance, {**SETTINGS, "long_model": str(folder.parent / "model")})
        (request,) = schedule_tick(workspace, "backfill_index").run_requests
    assert asked_range(request) == (A, A)
    assert main(command.split()[3:]) == 0
    assert main(["status", "--select", "index", "--verify"]) == 0
