"""The reports as assets: HTML pages for judging the data."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from upath import UPath

from el_assets.entropylong.assets import context_scores, entropy_maps, packed_sequences, verified_pairs
from el_assets.gateau.assets import cam_scores, hmg_scores, influence_scores, instruction_samples, selected_subsets
from el_assets.partitions import registered_shards
from el_assets.reports.page import render, write_page
from el_resources.addresses import without_secrets
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import digest


@dg.asset(
    group_name="reports",
    kinds={"html"},
    deps=[packed_sequences, verified_pairs, context_scores, entropy_maps],
    code_version="1",
)
def entropylong_report(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One HTML page on all finished corpus shards, from stored tables: funnel, costs, counts per ε, distributions.

    Its reader shows a document token by token (coloured by entropy in nats), the chunks retrieved at each anchor with
    the reason why each was kept or not, and a sequence segment by segment. The page needs no network and shows at most
    200 documents and 200 sequences, sampled by hash.
    """
    from el_assets.reports.entropylong_data import FinishedShards, draw, report_data

    started = time.monotonic()
    finished = FinishedShards.of(ShardTables(settings.store), registered_shards(context.instance))
    data = report_data(settings, finished)
    html = render("EntropyLong report", "entropylong.html", "entropylong.js", data, draw(finished))
    counts = {"shards": len(finished.shards), "documents_shown": len(data["documents"])}
    return written(settings, "entropylong_report", html, counts, started)


@dg.asset(
    group_name="reports",
    kinds={"html"},
    deps=[influence_scores, cam_scores, hmg_scores, instruction_samples, selected_subsets],
    code_version="1",
)
def gateau_report(settings: Settings) -> dg.MaterializeResult:
    """One HTML page on the ranked pool, from stored tables: funnel, costs, distributions, and a reader of samples.

    The reader shows a sample segment by segment, with the attention to each segment and its importance (from the
    perplexity with that segment alone), and the sample's perplexities in both readings, HMP, CAS and rank. The page
    needs no network and shows at most 200 samples, sampled by hash.
    """
    from el_assets.reports.gateau_data import RankedPool, draw, report_data

    started = time.monotonic()
    ranked = RankedPool.of(ShardTables(settings.store))
    data = report_data(settings, ranked)
    html = render("GATEAU report", "gateau.html", "gateau.js", data, draw(ranked))
    counts = {"shards": len(ranked.shards), "samples_shown": len(data["samples"])}
    return written(settings, "gateau_report", html, counts, started)


def makeable_reports(settings: Settings, corpus: Sequence[str]) -> list[str]:
    """Return the names of the reports that have tables to report on.

    Args:
        corpus: the registered corpus shards.
    """
    tables = ShardTables(settings.store)
    has_sequences = any(tables.has("packed_sequences", shard) for shard in corpus)
    has_ranking = tables.has("influence_scores")
    return ["entropylong_report"] * has_sequences + ["gateau_report"] * has_ranking


def report_path(settings: Settings, name: str) -> UPath:
    """Return the path of a report, whether or not it was made."""
    return ShardTables(settings.store).store / "reports" / f"{name}.html"


def written(
    settings: Settings, name: str, html: str, counts: Mapping[str, Any], started: float
) -> dg.MaterializeResult:
    """Write the page and return the asset's result, which names the path."""
    path = report_path(settings, name)
    is_new = write_page(path, html)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(without_secrets(str(path))),
            "bytes": len(html.encode("utf-8")),
            "skipped": not is_new,
            "seconds": round(time.monotonic() - started, 3),
            **counts,
        },
        data_version=dg.DataVersion(digest(html)),
    )
