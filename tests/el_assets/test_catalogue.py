"""The catalogue's entries of every asset, before anything is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from el_assets.catalogue import ASSETS_OF_JOBS, RECIPES, TABLES
from el_assets.corpus.assets import open_corpus_of
from el_assets.definitions import defs
from el_assets.gateau.selectors import SELECTORS, tables_of
from el_assets.operations.status import AssetStatus, status_of
from el_assets.sources import KINDS
from el_assets.tables.description import Recipe, Table
from el_assets.tables.recipes import Cookbook, stamps_over_shards
from el_assets.tables.schemas import dagster_schema, polars_schema
from tests.conftest import Workspace

GRAPH = defs.resolve_asset_graph()
SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
EXTERNAL = {"source_corpus", "source_instructions", "short_model", "long_model", "text_encoder"}
MADE = sorted(set(SPECS) - EXTERNAL)
GROUPS = {"sources", "corpus", "models", "entropylong", "gateau", "reports"}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_asset_is_described_owned_and_of_a_kind(name: str) -> None:
    spec = SPECS[name]
    assert len(spec.description or "") > 60
    assert (spec.description or "").rstrip().endswith(".")
    assert spec.group_name in GROUPS
    assert spec.kinds
    assert list(spec.owners) == ["team:entropylong"]


@pytest.mark.parametrize("name", MADE)
def test_every_asset_that_is_made_has_a_code_version_and_a_link_to_its_source(name: str) -> None:
    spec = SPECS[name]
    version = RECIPES[name].code_version if name in RECIPES else "1"
    assert (spec.code_version or "").partition("-")[0] == version
    (reference,) = spec.metadata["dagster/code_references"].code_references
    assert reference.file_path.endswith("assets.py")
    assert reference.line_number > 0


@pytest.mark.parametrize("name", sorted(set(TABLES) & set(SPECS)))
def test_every_table_shows_its_columns_before_it_is_made(name: str) -> None:
    columns = SPECS[name].metadata["dagster/column_schema"].columns
    assert columns == dagster_schema(name).columns
    assert all(column.description for column in columns)


def test_every_asset_that_writes_a_table_is_in_the_schemas() -> None:
    assert set(MADE) - set(TABLES) == {"retrieval_index", "entropylong_report", "gateau_report"}


def test_a_number_with_a_unit_names_it_in_its_column_or_description() -> None:
    units = ("nats", "tokens", "token", "chars", "character", "share", "mass", "cosine", "norm", "α·", "unit length")
    without = [
        (table, name)
        for table, columns in ((name, described.columns) for name, described in TABLES.items())
        for name, column in columns.items()
        if str(column.dtype) in ("Float32", "Float64", "List(Float32)")
        and not any(unit in f"{name} {column.description}".lower() for unit in units)
    ]
    assert without == []


def test_lineage_starts_at_what_was_read_and_ends_at_what_is_looked_at() -> None:
    def behind(name: str) -> set[str]:
        parents = {key.to_user_string() for key in GRAPH.get(dg.AssetKey(name)).parent_keys}
        return parents.union(*(behind(parent) for parent in parents))

    assert {"source_corpus", "long_model", "text_encoder"} <= behind("entropylong_report")
    assert {"source_instructions", "long_model", "short_model"} <= behind("gateau_report")
    roots = {name for name in SPECS if not GRAPH.get(dg.AssetKey(name)).parent_keys}
    assert roots == EXTERNAL


def test_sources_name_where_they_lie() -> None:
    assert SPECS["source_corpus"].metadata["uri"] == "python-docs:"
    assert SPECS["source_instructions"].metadata["uri"] == "python-docs-questions:"


def test_models_are_observed_with_their_fingerprints() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("observe_models").execute_in_process(instance=instance)
        observed = {
            event.asset_key.to_user_string(): event.event_specific_data.asset_observation.metadata
            for event in result.get_asset_observation_events()
        }
    assert set(observed) == {"short_model", "long_model", "text_encoder"}
    assert observed["long_model"]["window_tokens"].value == 4096
    assert observed["short_model"]["fingerprint"].value != observed["long_model"]["fingerprint"].value


def test_every_job_says_what_it_does() -> None:
    jobs = {job.name: str(job.description) for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert len(jobs) == 7
    assert [name for name in ("short_model", "long_model", "text_encoder") if name not in jobs["observe_models"]] == []
    # A user reads which tables a job makes.
    without = {name for name, told in jobs.items() if not any(asset in told for asset in SPECS)}
    assert without == {"remove_shards"}


def test_a_schedule_says_which_job_it_starts_and_which_runs_it_waits_for() -> None:
    told = {one.name: str(one.description) for one in (*(defs.schedules or ()), *(defs.sensors or ()))}
    assert "Runs build_index for" in told["backfill_index"]
    assert "while a run of build_index is queued or running" in told["backfill_index"]
    assert "while a run of build_sequences or build_index is queued or running" in told["backfill_sequences"]
    assert "while a run of select_samples or score_samples is queued or running" in told["selection_follows_scores"]
    assert "starts remove_shards" in told["follow_corpus"]


def test_the_link_to_the_source_of_an_asset_leads_to_its_step() -> None:
    found = {
        name: Path(spec.metadata["dagster/code_references"].code_references[0].file_path).name
        for name, spec in SPECS.items()
        if "dagster/code_references" in spec.metadata
    }
    assert {name for name, file in found.items() if file == "assets.py"} >= {
        *("documents", "retrieval_index", "entropy_maps", "packed_sequences", "hmg_scores", "selected_subsets")
    }
    assert "shard_assets.py" not in found.values()


def test_every_table_is_made_by_one_job() -> None:
    made = [asset for assets in ASSETS_OF_JOBS.values() for asset in assets]
    assert sorted(made) == sorted([*RECIPES, "retrieval_index"])


def test_every_selector_has_its_column_and_its_table() -> None:
    ranking = TABLES["influence_scores"]
    assert {selector.column for selector in SELECTORS} < set(ranking.columns)
    assert RECIPES["influence_scores"].inputs_over_shards == tuple(tables_of(SELECTORS))


def test_a_table_of_all_shards_that_only_names_its_job_is_listed_with_its_state(
    new_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(code_version="1", inputs_over_shards=("documents",))
    listing = Table(name="listing", job="build_index", columns=TABLES["documents"].columns, recipe=recipe)
    monkeypatch.setitem(TABLES, "listing", listing)
    monkeypatch.setitem(RECIPES, "listing", recipe)
    monkeypatch.setitem(ASSETS_OF_JOBS, "build_index", (*ASSETS_OF_JOBS["build_index"], "listing"))
    workspace = new_workspace()
    for shard in ("a.jsonl", "b.jsonl"):
        workspace.write_shard(shard, [{"id": "1", "text": f"text of {shard}"}])
    shards, settings, tables = workspace.register(), workspace.loaded(), workspace.tables
    cookbook, empty = (
        Cookbook(settings, tables, open_corpus_of(settings)),
        pl.DataFrame(schema=polars_schema("documents")),
    )

    def state(**changes: Any) -> AssetStatus:
        found = status_of(KINDS["corpus"], workspace.instance, workspace.loaded(**changes)).assets
        return next(one for one in found if one.asset == "listing")

    assert state().missing == ["all"]
    for shard in shards:
        tables.write(empty, cookbook.draft("documents", shard))
    tables.write(empty, cookbook.draft("listing", "all", stamps_over_shards("listing", tables, shards)))
    assert (state().done, state().stale) == (1, {})
    assert state(text_column="body").stale == {"all": ("its input documents/a.jsonl is stale, and 1 more",)}
    workspace.write_shard("b.jsonl", [{"id": "1", "text": "another"}])
    tables.write(empty, Cookbook(settings, tables, open_corpus_of(settings)).draft("documents", "b.jsonl"))
    assert len(state().stale) == 1
