"""GATEAU without CAM, for models whose attention cannot be watched: influence is HMP alone."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from el_assets.__main__ import main
from el_assets.gateau.summary import gateau_rows
from el_assets.operations.status import in_words, status_of
from el_assets.reports.gateau_data import RankedPool, draw, report_data
from el_assets.sources import KINDS
from tests.conftest import Workspace, failed_checks, library_samples, tiny_model, write_json_lines
from tests.support.gemma_models import GEMMA_2, GEMMA_3, with_pool

NewWorkspace = Callable[..., Workspace]
A = "a.jsonl"


def test_a_launch_without_cam_of_a_job_that_measures_it_says_what_to_do(new_workspace: NewWorkspace) -> None:
    workspace = with_pool(new_workspace())
    workspace.materialize("instruction_samples")
    with pytest.raises(
        ValueError, match=r"cam_scores cannot be made with EL_CAM=false; set EL_CAM=false in the environment"
    ):
        workspace.materialize("cam_scores", cam=False)


@pytest.mark.filterwarnings("ignore:.*is read in padded batches")
def test_gateau_without_cam_ranks_by_hmp_and_says_so(new_workspace: NewWorkspace, tmp_path: Path) -> None:
    workspace = with_pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_2)), cam=False))
    workspace.materialize("instruction_samples", "hmg_scores")
    assert failed_checks(workspace.run("select_samples")) <= {"the_pool_is_large_enough"}
    stamp, table = workspace.tables.require_stamp("influence_scores"), workspace.tables.read("influence_scores")
    assert stamp.facts["weights"] == {"hmp": 1.0, "cas": 0.0}
    assert stamp.facts["rank_correlation_with_cas"] is None
    assert table["cas"].null_count() == table.height == 5
    assert table["hmp"].is_sorted(descending=True)

    settings, ranked = workspace.loaded(), RankedPool.of(workspace.tables)
    rows = dict(gateau_rows(settings, workspace.tables, [A]))
    assert rows["awareness"] == "not measured (EL_CAM=false): influence is HMP alone"
    assert "windows of 100 and 400 tokens" in rows["guidance"]
    page = report_data(settings, ranked)
    assert json.dumps(page, allow_nan=False) and draw(ranked)
    assert ["ranked", 5, "by HMP alone"] in page["funnel"]
    shown = {name: value for name, value, _ in page["settings"]}
    assert (shown["cam"], shown["short_window_tokens"], shown["bos_id"]) == ("false", "100", "0")


def test_a_store_whose_awareness_is_from_before_cam_was_switched_off(
    new_workspace: NewWorkspace, tmp_path: Path
) -> None:
    """Report, status and closing words are those of a ranking by HMP alone; the older table is left in peace."""
    workspace = with_pool(new_workspace(long_model=str(tiny_model(tmp_path / "gemma", GEMMA_3)), segment_tokens=32))
    for job in ("score_samples", "select_samples"):
        workspace.run(job)
    before = workspace.tables.require_stamp("cam_scores", A)
    assert report_data(workspace.loaded(), RankedPool.of(workspace.tables))["with_cam"] is True

    off = replace(workspace, settings={**workspace.settings, "cam": False})
    off.materialize("hmg_scores")
    off.run("select_samples")
    assert workspace.tables.require_stamp("cam_scores", A) == before
    page = report_data(off.loaded(), RankedPool.of(off.tables))
    assert page["with_cam"] is False
    assert "cam_scores" not in {name for name, *_ in page["costs"]}
    shown = {name: value for name, value, _ in page["settings"]}
    assert shown["cam"] == "false"
    assert page["correlations"][1] is None
    assert ["ranked", page["n_samples"], "by HMP alone"] in page["funnel"]
    assert all(entry["cas"] is None and entry["lengths"] == [] for entry in page["samples"])
    rows = dict(gateau_rows(off.loaded(), off.tables, [A]))
    assert rows["awareness"] == "not measured (EL_CAM=false): influence is HMP alone"
    status = status_of(KINDS["instructions"], off.instance, off.loaded())
    assert "cam_scores" not in {one.asset for one in status.assets}
    assert status.is_done, list(in_words(status))


@pytest.mark.filterwarnings("ignore:.*is read in padded batches")
def test_gateau_without_cam_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From files to subsets, and a status in which nothing is missing."""
    folder = tiny_model(tmp_path / "gemma", GEMMA_2)
    (tmp_path / "pool").mkdir()
    write_json_lines(tmp_path / "pool" / A, library_samples(3))
    (tmp_path / "dagster").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setenv("EL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("EL_INSTRUCTIONS", f"jsonl:{tmp_path / 'pool'}")
    monkeypatch.setenv("EL_LONG_MODEL", str(folder))

    assert main(["run"]) == 2, "before the index and the sequences, which would come first"
    assert "set EL_CAM=false" in capsys.readouterr().err
    assert not (tmp_path / "store" / "tables").exists()
    monkeypatch.setenv("EL_CAM", "off")
    assert main(["run", "--select", "gateau"]) == 0
    assert "influence is HMP alone" in capsys.readouterr().out
    assert main(["status", "--select", "gateau"]) == 0
    assert "cam_scores" not in capsys.readouterr().out
