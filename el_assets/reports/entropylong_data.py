"""Data of `entropylong_report`: funnel, pass rates, counts over ε, distributions, and the readers' entries.

Everything is computed from stored tables; nothing is scored. The scores of all shards are in memory, but texts and
tokens only of the documents that are shown.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from el_assets.catalogue import CORPUS_TABLES, SEQUENCE_TABLES
from el_assets.corpus.documents import usable
from el_assets.entropylong.diagnosis import added, by_reason, why_nothing
from el_assets.entropylong.selection import KeepRule, judge, keep_contexts, pass_rates
from el_assets.plots import entropylong as figures
from el_assets.plots.drawing import svg
from el_assets.reports.common import cost_rows, sampled, set_aside_remark, settings_rows
from el_assets.reports.entropylong_readers import document_entries, sequence_entries
from el_assets.reports.finished_shards import FinishedShards
from el_resources.settings import Settings

EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Most roots whose tokens the entropy histogram counts.
HISTOGRAM_ROOTS = 2000


def report_data(settings: Settings, finished: FinishedShards) -> dict[str, Any]:
    """Return the page's data. Raises ValueError (see tokenizer_of)."""
    tables = finished.tables
    model = next(iter(finished.stamps["entropy_maps"].values())).facts["model"]
    stamps = {**finished.stamps, "documents": tables.stamps("documents", finished.shards)}
    return {
        "store": str(tables.store),
        "model": model,
        "embedded": str(model).startswith("reference:"),
        "shards": finished.shards,
        "settings": settings_rows(
            [finished.stamps[name][finished.shards[0]] for name in ("entropy_maps", "packed_sequences")]
        ),
        "costs": cost_rows(tables, (*CORPUS_TABLES, *SEQUENCE_TABLES), finished.shards),
        "funnel": funnel(finished),
        "nothing": why_nothing({asset: of_asset.values() for asset, of_asset in stamps.items()}),
        "rule": {"epsilon": finished.rule.epsilon, "criterion": finished.rule.criterion},
        "grid": epsilon_grid(finished, seed=settings.seed),
        "documents": document_entries(finished, settings),
        "n_roots": finished.total("entropy_maps", "rows"),
        "sequences": sequence_entries(finished, settings),
        "n_sequences": finished.sequences.height,
    }


def funnel(finished: FinishedShards) -> list[list[Any]]:
    """Return (stage, count, remark) for every stage from documents to sequences, counted in the tables."""
    tables, shards = finished.tables, finished.shards
    documents = tables.scan_many("documents", shards)
    n_documents = _count(usable(documents))
    roots = tables.scan_many("entropy_maps", shards).select("anchors").collect()
    maps = added([stamp.facts for stamp in finished.stamps["entropy_maps"].values()])
    leftovers = added([stamp.facts for stamp in finished.stamps["packed_sequences"].values()]).get("leftovers", {})
    controls = int(finished.scores["is_control"].sum())
    with_contexts = finished.pairs.select("shard", "doc_id").n_unique()
    segments = finished.sequences.select(pl.col("segments").explode(empty_as_null=False)).unnest("segments")
    packed = dict(segments.group_by("kind").len().iter_rows())
    return [
        ["documents", n_documents, set_aside_remark(_count(documents) - n_documents)],
        ["chunks", _count(tables.scan_many("context_chunks", shards)), "that can be retrieved from these shards"],
        ["eligible roots", finished.total("entropy_maps", "documents_eligible"), _not_eligible(maps)],
        ["roots", roots.height, _not_finite(maps)],
        ["anchors", int(roots["anchors"].list.len().sum()), "positions with entropy above τ"],
        [
            "candidates",
            finished.scores.height - controls,
            f"anchor × retrieved chunk; {controls:,} random next to them",
        ],
        ["verified contexts", finished.pairs.height, f"kept for {with_contexts:,} roots"],
        ["packed contexts", packed.get("context", 0), f"with {packed.get('root', 0):,} roots{_left_over(leftovers)}"],
        ["sequences", finished.sequences.height, f"of {finished.made_under['sequence_tokens']:,} tokens"],
    ]


def _not_eligible(maps: Mapping[str, Any]) -> str:
    """Return the remark on the documents that are not eligible as roots, by reason."""
    reasons = maps.get("documents_not_eligible")
    return f"not eligible: {by_reason(reasons)}" if reasons else "every document is eligible"


def _not_finite(maps: Mapping[str, Any]) -> str:
    lost = maps.get("roots_not_finite", 0)
    return "sampled by hash" + (f"; {lost:,} more were set aside, since their scores are not finite" if lost else "")


def _left_over(leftovers: Mapping[str, int]) -> str:
    return f"; roots left over: {by_reason(leftovers)}" if leftovers else ""


def epsilon_grid(finished: FinishedShards, *, seed: int) -> list[dict[str, Any]]:
    """Return, for each ε, how many pairs would pass and how many contexts would be kept, if nothing else changed.

    The functions that made `verified_pairs` are applied to the stored scores.
    """
    made = finished.rule
    return [
        _at_epsilon(finished, epsilon, is_made=epsilon == made.epsilon, seed=seed)
        for epsilon in sorted({*EPSILONS, made.epsilon})
    ]


def _at_epsilon(finished: FinishedShards, epsilon: float, *, is_made: bool, seed: int) -> dict[str, Any]:
    made = finished.rule
    rule = KeepRule(epsilon=epsilon, criterion=made.criterion, beats_controls=made.beats_controls)
    judged = judge(finished.scores, rule)
    rates = pass_rates(judged, seed=seed)
    # The cap on a chunk's uses holds within a shard.
    kept = [
        keep_contexts(of_shard, max_uses=finished.made_under["max_chunk_uses"])[0]
        for of_shard in judged.with_columns(shard=shard_of()).partition_by("shard")
    ]
    return {
        "epsilon": epsilon,
        "is_made": is_made,
        "passing": rates.n_retrieved_passing,
        "retrieved": rates.retrieved,
        "random": rates.null,
        "fdr": rates.fdr,
        "fdr_interval": list(rates.fdr_interval) if rates.fdr_interval else None,
        "contexts": sum(pairs.height for pairs in kept),
        "roots": sum(pairs["doc_id"].n_unique() for pairs in kept),
    }


def shard_of() -> pl.Expr:
    """Return an expression for the shard in a root id of `over_shards`."""
    return pl.col("doc_id").str.split("\0").list.first()


def draw(finished: FinishedShards) -> dict[str, str]:
    """Draw the page's figures and return them by name."""
    epsilon = finished.rule.epsilon
    roots_without = finished.total("entropy_maps", "rows") - finished.pairs.select("shard", "doc_id").n_unique()
    return {
        "entropy": svg(figures.entropy_histogram(_some_maps(finished)), "Token entropies of the roots"),
        "reductions": svg(
            figures.retrieved_beside_random(finished.scores, epsilon), "Reductions of retrieved and of random chunks"
        ),
        "similarity": svg(figures.similarity_and_reduction(finished.scores, epsilon), "Similarity and reduction"),
        "contexts": svg(figures.contexts_per_root(finished.pairs, roots_without=roots_without), "Contexts per root"),
        "throughput": svg(figures.throughput(_rates(finished)), "Tokens a second by shard"),
        "fill": svg(figures.sequence_fill(finished.sequences), "Tokens by kind and distances"),
    }


def _rates(finished: FinishedShards) -> dict[str, list[float]]:
    """Return the tokens a second at which each shard was scored, by asset."""
    return {
        asset: [finished.stamps[asset][shard].facts.get("tokens_per_second", 0) for shard in finished.shards]
        for asset in ("entropy_maps", "context_scores")
    }


def _some_maps(finished: FinishedShards) -> pl.DataFrame:
    maps = finished.tables.scan_many("entropy_maps", finished.shards)
    keys = sampled(maps.select("shard", "doc_id").collect().iter_rows())[:HISTOGRAM_ROOTS]
    wanted = pl.LazyFrame(keys, schema={"shard": pl.String, "doc_id": pl.String}, orient="row")
    columns = ("entropy_nats", "anchors", "mean_nats", "threshold_nats")
    return maps.join(wanted, on=["shard", "doc_id"], how="semi").select(columns).collect()


def _count(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect().item())
