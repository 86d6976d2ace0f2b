"""The steps that make one shard of each EntropyLong table: read inputs, call pure functions, count.

The step of `candidate_contexts` is in candidate_search.py. The assets (assets.py) describe the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from el_assets.corpus.documents import usable
from el_assets.entropylong.anchors import RootLimits, entropy_map_row, entropy_maps_table, sample_roots
from el_assets.entropylong.packing import Group, Segment, leftovers_table, make_group, pack, sequences_table, too_long
from el_assets.entropylong.provenance import document_of, document_origins
from el_assets.entropylong.selection import KeepRule, judge, keep_contexts, pass_rates
from el_assets.entropylong.verification import (
    Joint,
    blocks,
    pair_names,
    pairs_with_before,
    per_pair_cost,
    plan_units,
    score_units,
    split_finite,
    split_known,
    with_reductions,
)
from el_assets.tables.finite import is_finite, set_aside_facts
from el_assets.tables.meter import Meter
from el_assets.tables.model_roles import ModelRoles
from el_assets.tables.shard_assets import ShardStep
from el_assets.tables.shard_runs import Made
from el_resources.models.causal_lm import ModelChoice
from el_resources.sources.mixture import offers_roots
from el_resources.store.shard_tables import MissingTableError

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine


@dataclass(frozen=True)
class _Root:
    """A sampled document and its tokens."""

    doc_id: str
    content_hash: str
    token_ids: np.ndarray


def map_entropy(step: ShardStep, shard: str, engine: "ScoringEngine", model: ModelChoice) -> Made:
    """Make `entropy_maps` of a shard: score every token of the sampled roots; set aside roots without finite scores."""
    settings = step.settings
    # Score sampled roots.
    roots, counts = _sampled_roots(step, shard, engine.window)
    sequences = [root.token_ids for root in roots]
    with Meter(engine) as meter, step.show(f"entropy {shard}", sum(len(ids) for ids in sequences), "tokens") as advance:
        scores = engine.score(sequences, on_progress=advance)
    # Set aside non-finite.
    scored = list(zip(roots, scores, strict=True))
    lost = [repr(root.doc_id) for root, score in scored if not is_finite(score.entropy_nats, score.nll_nats)]
    # Find the anchors.
    rows = [
        entropy_map_row(
            root.doc_id,
            root.content_hash,
            root.token_ids,
            score.entropy_nats,
            score.nll_nats,
            alpha=settings.alpha,
            skip=settings.skip_tokens,
            cap=settings.max_anchors,
        )
        for root, score in scored
        if is_finite(score.entropy_nats, score.nll_nats)
    ]
    table = entropy_maps_table(rows)
    facts = {
        **meter.facts(),
        "documents_eligible": counts.pop("eligible"),
        "documents_not_eligible": counts,
        **set_aside_facts("roots", lost, engine.dtype),
        "anchors": int(table["anchors"].list.len().sum()),
        "root_tokens": int(table["token_ids"].list.len().sum()),
        "vocab_size": engine.vocab_size,
        **step.placed_facts(engine),
        "model": model.name,
        "model_has_bos": step.tokenizer.has_bos,
        **step.joint_facts(),
    }
    return Made(frame=table, facts=facts)


def _sampled_roots(step: ShardStep, shard: str, window: int) -> tuple[list[_Root], dict[str, int]]:
    """Return the shard's sampled roots, and the counts of documents: `eligible`, and ineligible ones by reason."""
    settings = step.settings
    texts = usable(step.tables.scan("documents", shard)).select("doc_id", "content_hash", "text").collect()
    if not offers_roots(settings.corpus, shard):
        return [], {"eligible": 0, **({"source_offers_no_roots": texts.height} if texts.height else {})}
    tokens = step.tokenizer.encode_batch(texts["text"].to_list())
    limits = RootLimits(
        shortest=settings.root_tokens_min,
        longest=settings.root_tokens_max,
        window=window,
        chunk=settings.chunk_tokens,
        separator=len(step.separator_ids()),
    )
    lengths = [len(ids) for ids in tokens]
    chosen, counts = sample_roots(
        texts["doc_id"].to_list(), lengths, limits, count=settings.roots_per_shard, seed=settings.seed
    )
    names = texts[chosen].select("doc_id", "content_hash").iter_rows()
    return [_Root(doc_id, hash_, tokens[index]) for (doc_id, hash_), index in zip(names, chosen, strict=True)], counts


def score_contexts(step: ShardStep, shard: str, engine: "ScoringEngine", scorer_fingerprint: str) -> Made:
    """Make `context_scores` of a shard: score all candidates and controls with one forward per unique (root, chunk)."""
    maps = step.tables.read("entropy_maps", shard, ["doc_id", "token_ids", "entropy_nats", "nll_nats", "anchors"])
    pairs = pairs_with_before(step.tables.read("candidate_contexts", shard), maps)
    # Reuse known scores.
    basis = {"scorer": scorer_fingerprint, "separator": step.settings.separator}
    known, new = split_known(pairs, _earlier_scores(step, shard, basis))
    roots = {doc_id: np.asarray(ids, dtype=np.int32) for doc_id, ids in maps.select("doc_id", "token_ids").iter_rows()}
    chunks = chunk_tokens(step, pairs)
    joint = Joint(step.separator_ids())
    # Score new pairs.
    units = plan_units(new)
    with Meter(engine) as meter:
        scored = _score_blocks(step, shard, engine, units, roots, chunks, joint)
    after = new.join(pl.concat(scored), on=["doc_id", "chunk_hash", "anchor"], how="inner") if scored else known.clear()
    every = pl.concat([known, after])
    assert every.height == pairs.height, (every.height, pairs.height)
    # Set aside non-finite.
    fine, lost = split_finite(every)
    table = with_reductions(fine).sort("doc_id", "anchor", "is_control", "rank", "chunk_id")
    facts = {
        **meter.facts(),
        "pairs": pairs.height,
        "pairs_reused": known.height,
        **set_aside_facts("pairs", pair_names(lost), engine.dtype),
        "units": len(units),
        **per_pair_cost(pairs, roots, chunks, joint),
        "basis": basis,
        **step.placed_facts(engine),
        **step.joint_facts(),
    }
    return Made(frame=table, facts=facts)


def _score_blocks(
    step: ShardStep,
    shard: str,
    engine: "ScoringEngine",
    units: Sequence[Any],
    roots: Mapping[str, np.ndarray],
    chunks: Mapping[str, np.ndarray],
    joint: Joint,
) -> list[pl.DataFrame]:
    """Score all units and return a frame per block; progress counts tokens as if no prefix were shared."""
    total = sum(len(chunks[u.chunk_hash]) + len(joint.separator_ids) + 1 + u.anchors[-1] for u in units)
    with step.show(f"verify {shard}", total, "tokens") as advance:

        def score(
            sequences: list[np.ndarray], positions: list[np.ndarray], n_common: list[int]
        ) -> list[tuple[np.ndarray, np.ndarray]]:
            scores = engine.score(sequences, positions, on_progress=advance, n_common=n_common)
            return [(score.entropy_nats, score.nll_nats) for score in scores]

        # Sorted by chunk, so that units of one chunk share a block, which reads the chunk once.
        by_chunk = sorted(units, key=lambda unit: unit.chunk_hash)
        return [score_units(block, roots, chunks, joint, score) for block in blocks(by_chunk)]


def _earlier_scores(step: ShardStep, shard: str, basis: Mapping[str, str]) -> pl.DataFrame | None:
    """Return the shard's stored table if its scores may be reused: same scorer and separator, and no `force`."""
    stamp = step.tables.stamp("context_scores", shard)
    if step.settings.force or stamp is None:
        return None
    if (made_on := stamp.facts.get("basis")) != basis:
        # Tables of earlier versions have another fingerprint for the same scorer (Cookbook.takes_over).
        earlier = ModelRoles(step.settings).as_auto({"scorer": basis["scorer"]}, stamp.facts.get("dtype"))
        if made_on != {**basis, **earlier}:
            return None
    return step.tables.read("context_scores", shard)


def chunk_tokens(step: ShardStep, wanted: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return the token ids of chunks, by content hash.

    Args:
        wanted: `chunk_id`, `chunk_shard`, `chunk_hash` of the chunks.

    Raises:
        MissingTableError: a chunk is no longer in its shard's context_chunks.
    """
    texts: dict[str, str] = {}
    for (chunk_shard,), rows in wanted.select("chunk_id", "chunk_shard", "chunk_hash").unique().group_by("chunk_shard"):
        ids = rows["chunk_id"].to_list()
        found = step.tables.scan("context_chunks", str(chunk_shard)).filter(pl.col("chunk_id").is_in(ids))
        texts.update(found.select("content_hash", "text").collect().iter_rows())
    gone = wanted.filter(~pl.col("chunk_hash").is_in(list(texts)))
    if not gone.is_empty():
        raise MissingTableError(
            f"{gone['chunk_id'].n_unique()} chunks are gone from context_chunks, "
            f"the first is {gone['chunk_id'][0]!r}; "
            "materialize retrieval_index and then candidate_contexts again"
        )
    return dict(zip(texts, step.tokenizer.encode_batch(list(texts.values())), strict=True))


def verify_pairs(step: ShardStep, shard: str) -> Made:
    """Make `verified_pairs` of a shard: apply the keep rule to stored scores, without a model."""
    settings = step.settings
    scores = step.tables.read("context_scores", shard)
    # Judge all pairs.
    rule = KeepRule(epsilon=settings.epsilon, criterion=settings.criterion, beats_controls=settings.beats_controls)
    by_epsilon = KeepRule(epsilon=settings.epsilon, criterion=settings.criterion, beats_controls=False)
    judged = judge(scores, rule)
    # Keep per root.
    table, n_capped = keep_contexts(judged, max_uses=settings.max_chunk_uses)
    plain = pass_rates(judge(scores, by_epsilon), seed=settings.seed)
    facts = {
        "contexts": table.height,
        "roots_with_contexts": table["doc_id"].n_unique(),
        "contexts_dropped_by_use_cap": n_capped,
        "pairs_above_epsilon": plain.n_retrieved_passing,
        "mean_best_reduction": table["best_reduction"].mean(),
        **pass_rates(judged, seed=settings.seed).facts(),
        "epsilon_only": plain.facts(),
    }
    return Made(frame=table, facts=facts)


def pack_sequences(step: ShardStep, shard: str) -> Made:
    """Make `packed_sequences` and `packing_leftovers` of a shard."""
    settings = step.settings
    pairs = step.tables.read("verified_pairs", shard)
    maps = step.tables.read("entropy_maps", shard, ["doc_id", "token_ids"])
    roots = {doc_id: np.asarray(ids, dtype=np.int32) for doc_id, ids in maps.iter_rows()}
    # Pack the groups.
    groups = _groups(step, shard, pairs, roots)
    sequences, leftovers = pack(
        groups, length=settings.sequence_tokens, end_of_text=step.tokenizer.eos_id, seed=settings.seed
    )
    # List the leftovers.
    with_contexts = set(pairs["doc_id"])
    without = {doc_id: len(ids) for doc_id, ids in roots.items() if doc_id not in with_contexts}
    table = sequences_table(shard, sequences)
    left = leftovers_table(leftovers, without, length=settings.sequence_tokens)
    packable = [group for group in groups if too_long(group, settings.sequence_tokens) is None]
    context_tokens = sum(s.n_tokens for segments in sequences for s in segments if s.kind == "context")
    facts = {
        "sequences": table.height,
        "packed_tokens": int(table["n_tokens"].sum()),
        "context_tokens": context_tokens,
        "packed_contexts": sum(s.kind == "context" for segments in sequences for s in segments),
        "packed_roots": sum(s.kind == "root" for segments in sequences for s in segments),
        "packable_tokens": sum(group.n_tokens for group in packable),
        "end_of_text_token": step.tokenizer.end_of_text_token,
        "end_of_text_id": step.tokenizer.eos_id,
        **step.joint_facts(),
        "leftovers": dict(left["reason"].value_counts().sort("reason").iter_rows()),
    }
    return Made(frame=table, facts=facts, side_tables={"packing_leftovers": left})


def _groups(step: ShardStep, shard: str, pairs: pl.DataFrame, roots: Mapping[str, np.ndarray]) -> list[Group]:
    chunks = chunk_tokens(step, pairs)
    origins = document_origins(step.tables, shard, pairs)
    contexts: dict[str, list[Segment]] = {}
    for row in pairs.iter_rows(named=True):
        doc_id = document_of(row["chunk_id"])
        contexts.setdefault(row["doc_id"], []).append(
            Segment(
                "context",
                chunks[row["chunk_hash"]],
                doc_id=doc_id,
                chunk_id=row["chunk_id"],
                chunk_shard=row["chunk_shard"],
                anchors=row["anchors"],
                reductions=row["reductions"],
                **origins[row["chunk_shard"], doc_id],
            )
        )
    separator = step.separator_ids()
    return [
        make_group(
            Segment("root", roots[doc_id], doc_id=doc_id, **origins[shard, doc_id]),
            segments,
            separator,
            seed=step.settings.seed,
        )
        for doc_id, segments in contexts.items()
    ]
