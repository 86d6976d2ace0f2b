"""Small tables with the stamps of a run: real fingerprints of real models and files, and no row."""

from dataclasses import replace
from typing import Any

import polars as pl

from el_assets.catalogue import CORPUS_TABLES, SAMPLE_TABLES, SEQUENCE_TABLES
from el_assets.corpus.assets import open_corpus_of
from el_assets.gateau.assets import influence_inputs, open_instructions_of, scored_pool, subset_inputs
from el_assets.operations.status import SourceStatus, status_of
from el_assets.partitions import selected_fractions
from el_assets.sources import KINDS
from el_assets.tables.recipes import Cookbook
from el_assets.tables.schemas import polars_schema
from tests.conftest import Workspace, chat

A, B = "a.jsonl", "b.jsonl"


def finish(workspace: Workspace, *shards: str) -> None:
    """Write empty tables of these shards with the stamps that a run would give them; no index."""
    settings, tables = workspace.loaded(), workspace.tables
    cookbook = Cookbook(settings, tables, open_corpus_of(settings))
    for shard in shards:
        for name in (*CORPUS_TABLES, *SEQUENCE_TABLES):
            stamp = replace(cookbook.draft(name, shard), facts={"rows": 0})
            tables.write(pl.DataFrame(schema=polars_schema(name)), stamp)
        leftovers = replace(stamp, asset="packing_leftovers")
        tables.write(pl.DataFrame(schema=polars_schema("packing_leftovers")), leftovers)


def finish_pool(workspace: Workspace, *shards: str) -> None:
    """Write the same for instruction samples, ranking and subsets."""
    settings, tables = workspace.loaded(), workspace.tables
    cookbook = Cookbook(settings, tables, open_instructions_of(settings))
    for shard in shards:
        for name in SAMPLE_TABLES:
            stamp = cookbook.draft(name, shard)
            samples = tables.stamp("instruction_samples", shard)
            facts = {"samples_fingerprint": samples.fingerprint} if samples else {}
            tables.write(pl.DataFrame(schema=polars_schema(name)), replace(stamp, facts=facts))
    scores = scored_pool(tables, list(shards), ("hmg_scores", "cam_scores"))
    influence = cookbook.draft("influence_scores", "all", influence_inputs(scores))
    influence = replace(influence, facts={"shards": list(shards)})
    tables.write(pl.DataFrame(schema=polars_schema("influence_scores")), influence)
    inputs = subset_inputs(influence, tables.stamps("instruction_samples", shards))
    for fraction in selected_fractions.get_partition_keys():
        stamp = cookbook.draft("selected_subsets", fraction, inputs)
        tables.write(pl.DataFrame(schema=polars_schema("selected_subsets")), stamp)


def finished(workspace: Workspace) -> Workspace:
    """Return the workspace with two finished shards of a corpus and of a pool."""
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
