"""EntropyLong as assets: from documents to packed sequences. How a shard of each comes about stands in `steps`."""

from functools import cache, partial
from typing import Any

import dagster as dg

from el_assets.corpus.assets import context_chunks, context_store, documents, retrieval_index
from el_assets.entropylong.steps import (
    Searching,
    Step,
    find_candidates,
    map_entropy,
    pack_sequences,
    refuse_other_encoder,
    score_contexts,
    verify_pairs,
)
from el_assets.partitions import corpus_shards
from el_assets.progress import progress
from el_assets.recipes import RECIPES
from el_assets.shard_runs import Made, materialize_shards
from el_resources.causal_lm import CausalLM, ModelChoice
from el_resources.settings import Settings
from el_resources.shard_tables import ShardTables

GPU_POOL = "gpu"
# A model is loaded once per run, so a run takes many shards.
MANY_SHARDS = dg.BackfillPolicy.multi_run(max_partitions_per_run=64)


def shard_asset(name: str, deps: list[Any], *, kinds: set[str], pool: str | None = None) -> Any:
    """`@dg.asset` for a table of this group, partitioned by corpus shard."""
    return dg.asset(
        name=name,
        group_name="entropylong",
        kinds=kinds,
        deps=deps,
        partitions_def=corpus_shards,
        backfill_policy=MANY_SHARDS,
        code_version=RECIPES[name].code_version,
        pool=pool,
    )


@shard_asset("entropy_maps", [documents, "long_model"], kinds={"parquet", "pytorch"}, pool=GPU_POOL)
def entropy_maps(context: dg.AssetExecutionContext, settings: Settings, causal_lm: CausalLM) -> dg.MaterializeResult:
    """One row per root document: entropy and NLL (nats) of every token, threshold τ = μ + ασ, and the anchors above it.

    Roots are a hash sample of the shard's eligible documents: BOS, the longest chunk, the separator and the root fit
    the scorer's window, and the root fills at most half of a sequence. EntropyLong, "high-entropy positions".
    """
    model, step = ModelChoice.long(settings), _step(context, settings)
    return materialize_shards(context, settings, lambda shard: map_entropy(step, shard, causal_lm.engine(model), model))


@shard_asset("candidate_contexts", [entropy_maps, retrieval_index, "text_encoder"], kinds={"parquet", "lancedb"})
def candidate_contexts(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per anchor and candidate: the K chunks nearest to the text around it, and random controls per root.

    The root's own chunks and near-duplicates of it are excluded and counted. Retrieved from one tagged build of the
    index, which is recorded; a newer build does not make a finished shard stale, a candidate that vanished does.
    EntropyLong, "query and retrieval".
    """
    index = context_store(settings).open()
    tables = ShardTables(settings.store)

    @cache
    def searching() -> Searching:
        return Searching.of(index, settings)

    def make(shard: str) -> Made:
        refuse_other_encoder(tables, shard, settings)
        return find_candidates(_step(context, settings), shard, searching())

    def still_valid(shard: str) -> bool:
        if tables.require_stamp("candidate_contexts", shard).pinned["index_tag"] == index.tag:
            return True
        wanted = tables.read("candidate_contexts", shard, ["chunk_id"])["chunk_id"].unique()
        gone = wanted.filter(~wanted.is_in(index.chunk_ids()["chunk_id"].to_list()))
        if len(gone):
            context.log.info(
                f"{shard}: {len(gone)} candidates left the index, the first is {gone[0]!r}; retrieving again"
            )
        return gone.is_empty()

    return materialize_shards(context, settings, make, still_valid=still_valid)


@shard_asset(
    "context_scores",
    [candidate_contexts, entropy_maps, context_chunks, "long_model"],
    kinds={"parquet", "pytorch"},
    pool=GPU_POOL,
)
def context_scores(context: dg.AssetExecutionContext, settings: Settings, causal_lm: CausalLM) -> dg.MaterializeResult:
    """One row per anchor and candidate or control, kept or not: entropy and NLL (nats) before and after.

    One forward of [BOS] chunk separator root answers for all anchors of the root; pairs that an earlier table of the
    shard holds are not scored again. Metadata compares the cost with one forward per pair. EntropyLong, "verification".
    """
    model, step = ModelChoice.long(settings), _step(context, settings)
    return materialize_shards(
        context,
        settings,
        lambda shard: score_contexts(step, shard, causal_lm.engine(model), model.fingerprint()),
    )


@shard_asset("verified_pairs", [context_scores], kinds={"parquet", "polars"})
def verified_pairs(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per kept context of a root: the anchors that it verifies, with their reductions.

    Kept are contexts whose relative reduction exceeds ε (and that of every control at the same anchor, unless switched
    off), once per root. Needs no model, so ε is tuned here for free. Metadata holds pass rates of retrieved and random
    chunks and the estimated FDR.
    """
    return materialize_shards(context, settings, partial(verify_pairs, _step(context, settings)))


@shard_asset("packed_sequences", [verified_pairs, entropy_maps, context_chunks], kinds={"parquet"})
def packed_sequences(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per training sequence of exactly L tokens: groups of [shuffled verified contexts ; root].

    Groups are set apart by end-of-text. Every token span names its document and chunk. Roots that fill no sequence
    stand in the table `packing_leftovers` with their reason. Train on a sequence as one attention span. EntropyLong,
    "assembly".
    """
    tables = ShardTables(settings.store)
    return materialize_shards(
        context,
        settings,
        partial(pack_sequences, _step(context, settings)),
        still_valid=lambda shard: tables.exists("packing_leftovers", shard),
    )


def _step(context: dg.AssetExecutionContext, settings: Settings) -> Step:
    return Step(
        settings=settings,
        tables=ShardTables(settings.store),
        tokenizer=ModelChoice.long(settings).tokenizer(),
        show=partial(progress, context),
    )
