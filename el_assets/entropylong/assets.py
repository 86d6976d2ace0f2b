"""The assets of EntropyLong, from entropy maps to packed sequences; `steps` makes their shards."""

from functools import cache, partial

import dagster as dg
import polars as pl

from el_assets.corpus.assets import context_chunks, context_store, documents, retrieval_index
from el_assets.entropylong.candidate_search import (
    Searching,
    find_candidates,
    lost_candidates,
    refuse_other_encoder,
    too_few_candidates,
)
from el_assets.entropylong.diagnosis import why_empty
from el_assets.entropylong.steps import map_entropy, pack_sequences, score_contexts, verify_pairs
from el_assets.partitions import corpus_shards
from el_assets.tables.shard_assets import GPU_POOL, ShardStep, shard_asset
from el_assets.tables.shard_runs import Made, materialize_shards
from el_resources.models.causal_lm import CausalLM, ModelChoice
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables

sequence_asset = partial(shard_asset, group="entropylong", partitions=corpus_shards)


@sequence_asset("entropy_maps", [documents, "long_model"], kinds={"parquet", "pytorch"}, pool=GPU_POOL)
def entropy_maps(context: dg.AssetExecutionContext, settings: Settings, causal_lm: CausalLM) -> dg.MaterializeResult:
    """One row per root document: entropy and NLL (nats) of every token, threshold τ = μ + ασ, and the anchors above it.

    Roots are a sample (by hash) of the shard's eligible documents. A document is eligible if its length is within
    `root_tokens_min` and `root_tokens_max`, and if it fits the scorer's window together with BOS, the longest chunk and
    the separator. A source with `roots=no` has no roots. Metadata counts the ineligible documents by reason, and the
    roots that were set aside because a score is NaN or infinite. Paper: EntropyLong, "high-entropy positions".
    """
    model, step = ModelChoice.long(settings), ShardStep.of(context, settings)
    return materialize_shards(
        context,
        settings,
        lambda shard: map_entropy(step, shard, causal_lm.engine(model), model),
        why_empty=partial(why_empty, step.tables),
    )


@sequence_asset("candidate_contexts", [entropy_maps, retrieval_index, "text_encoder"], kinds={"parquet", "lancedb"})
def candidate_contexts(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per anchor and chunk: the K chunks most similar to the text around the anchor, and random controls.

    K is `candidates_per_anchor`. The root's own chunks and near-duplicates of the root are excluded and counted. All
    chunks come from one build of the index, whose tag is recorded. A newer build makes a finished shard stale only if
    one of its candidates is gone from the index, or if `refresh_candidates` is set. Paper: EntropyLong, "query and
    retrieval".
    """
    index = context_store(settings).open()
    tables = ShardTables(settings.store)

    @cache
    def searching() -> Searching:
        return Searching.of(index, settings)

    def make(shard: str) -> Made:
        refuse_other_encoder(tables, shard, settings)
        made = find_candidates(ShardStep.of(context, settings), shard, searching())
        if few := too_few_candidates(made.facts, settings.candidates_per_anchor):
            context.log.warning(f"{shard}: {few}")
        return made

    @cache
    def chunk_ids() -> pl.Series:
        return index.chunk_ids()["chunk_id"]

    def still_valid(shard: str) -> bool:
        if tables.require_stamp("candidate_contexts", shard).pinned["index_tag"] == index.tag:
            return True
        if settings.refresh_candidates:
            return False
        gone = lost_candidates(tables, shard, chunk_ids())
        if len(gone):
            context.log.info(
                f"{shard}: {len(gone)} candidates are gone from the index, the first is {gone[0]!r}; retrieving again"
            )
        return gone.is_empty()

    return materialize_shards(context, settings, make, still_valid=still_valid)


@sequence_asset(
    "context_scores",
    [candidate_contexts, entropy_maps, context_chunks, "long_model"],
    kinds={"parquet", "pytorch"},
    pool=GPU_POOL,
)
def context_scores(context: dg.AssetExecutionContext, settings: Settings, causal_lm: CausalLM) -> dg.MaterializeResult:
    """One row per anchor and chunk (candidate or control): entropy and NLL (nats) there with and without the chunk.

    One forward of `[BOS] chunk separator root` scores all anchors of the root. Pairs that the shard's earlier table
    holds for the same scorer and separator are not scored again. Metadata counts the pairs that are set aside because
    a score is NaN or infinite, and compares the cost with that of one forward per pair. Paper: EntropyLong,
    "verification".
    """
    model, step = ModelChoice.long(settings), ShardStep.of(context, settings)
    return materialize_shards(
        context,
        settings,
        lambda shard: score_contexts(step, shard, causal_lm.engine(model), model.fingerprint()),
        why_empty=partial(why_empty, step.tables),
    )


@sequence_asset("verified_pairs", [context_scores], kinds={"parquet", "polars"})
def verified_pairs(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per kept context of a root: the anchors that it verifies, with their relative reductions.

    The relative reduction is that of the entropy, the NLL or both (`criterion`). A context is kept if the reduction
    exceeds ε at an anchor and, unless `beats_controls` is off, also the reduction of every control at that anchor. The
    scores are read from `context_scores`, so another ε needs no model. Metadata holds the pass rates of retrieved and
    of random chunks, and the estimated false-discovery rate.
    """
    return materialize_shards(context, settings, partial(verify_pairs, ShardStep.of(context, settings)))


@sequence_asset("packed_sequences", [verified_pairs, entropy_maps, context_chunks, documents], kinds={"parquet"})
def packed_sequences(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per training sequence of exactly L tokens: groups of [shuffled verified contexts ; root].

    L is `sequence_tokens`. Groups are separated by end-of-text, and every token span names its document, chunk, source
    and licence. Train on a sequence as one attention span: a mask between its documents would hide the contexts from
    their root. Roots that are in no sequence are rows of the table `packing_leftovers`, with the reason. Paper:
    EntropyLong, "assembly".
    """
    tables = ShardTables(settings.store)
    return materialize_shards(
        context,
        settings,
        partial(pack_sequences, ShardStep.of(context, settings)),
        still_valid=lambda shard: tables.has("packing_leftovers", shard),
    )
