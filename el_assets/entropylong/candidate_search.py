"""The step that makes one shard of `candidate_contexts`: search in a pinned index, exclusions, random controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from el_assets.entropylong.candidates import (
    ControlRing,
    Exclusions,
    control_rows,
    draw_controls,
    query_texts,
    retrieve,
)
from el_assets.tables.shard_assets import Advance, ShardStep
from el_assets.tables.shard_runs import Made
from el_resources.configuration.fields.entropylong import LongTexts
from el_resources.models.long_texts import encode_whole
from el_resources.models.text_encoder import TextEncoder, Vectors, encoder_fingerprint, open_encoder
from el_resources.settings import Settings
from el_resources.store.pinned_index import PinnedIndex
from el_resources.store.shard_tables import ShardTables

# Reciprocal rank fusion (Cormack et al., 2009): its constant, and the results of each search that are fused.
RANK_CONSTANT = 60
FUSED_RESULTS = 100


@dataclass(frozen=True, kw_only=True)
class Searching:
    """A pinned index and all that is needed to search it, made once for all shards of a run.

    Attributes:
        encoder: encoder of the queries; None if retrieval is by full text alone.
        by_words: true if chunks are searched for by their words.
        chunks: `chunk_id, doc_id, shard, content_hash` of the whole index.
        ring: the chunks of the index, ready for drawing controls.
    """

    index: PinnedIndex
    encoder: TextEncoder | None
    by_words: bool
    chunks: pl.DataFrame
    ring: ControlRing

    @classmethod
    def of(cls, index: PinnedIndex, settings: Settings) -> "Searching":
        encoder = None
        if settings.retriever in ("dense", "hybrid"):
            encoder = open_encoder(
                settings.encoder, device=settings.device, trust_remote_code=settings.trust_remote_code
            )
        chunks = index.chunk_ids()
        ring = ControlRing.of(chunks["chunk_id"].to_list(), seed=settings.seed)
        by_words = settings.retriever in ("full_text", "hybrid")
        return cls(index=index, encoder=encoder, by_words=by_words, chunks=chunks, ring=ring)


def refuse_other_encoder(tables: ShardTables, shard: str, settings: Settings) -> None:
    """Raise ValueError if another encoder made the vectors of the shard's chunks: queries do not compare with them."""
    made_with = tables.require_stamp("context_chunks", shard).settings["encoder"]
    if made_with != encoder_fingerprint(settings.encoder):
        raise ValueError(
            f"the chunks of shard {shard!r} were encoded by another encoder ({made_with}) than EL_ENCODER="
            f"{settings.encoder!r}; run job build_index with this encoder first, or set EL_ENCODER back"
        )


def lost_candidates(tables: ShardTables, shard: str, chunk_ids: pl.Series) -> pl.Series:
    """Return the ids of a shard's candidates that are not in the index, which holds `chunk_ids`."""
    named = tables.read("candidate_contexts", shard, ["chunk_id"])["chunk_id"].unique()
    return named.filter(~named.is_in(chunk_ids.implode()))


def find_candidates(step: ShardStep, shard: str, searching: Searching) -> Made:
    """Make `candidate_contexts` of a shard: the retrieved chunks and the controls of every anchor."""
    settings = step.settings
    # Make the queries.
    maps = step.tables.read("entropy_maps", shard, ["doc_id", "token_ids", "anchors"])
    queries = query_texts(maps, step.tokenizer.decode, half_width=settings.query_half_width, side=settings.query_side)
    exclusions = Exclusions(
        {doc_id: step.tokenizer.decode(np.asarray(ids)) for doc_id, ids, _ in maps.iter_rows()},
        settings.near_duplicate_containment,
    )
    # Retrieve K chunks.
    with step.show(f"retrieve {shard}", queries.height, "queries") as advance:
        vectors = _query_vectors(searching.encoder, queries["query_text"].to_list(), settings.long_chunks)
        search = _search(shard, searching, queries["query_text"].to_list(), vectors, advance)
        retrieved = retrieve(
            queries, search, exclusions, k=settings.candidates_per_anchor, n_chunks=searching.index.n_rows
        )
    # Draw random controls.
    excluded = dict(exclusions.counts)
    per_anchor = candidates_per_anchor(queries, retrieved)
    controls = _draw(step, shard, searching, queries, retrieved, exclusions)
    table = pl.concat([retrieved, controls]).sort("doc_id", "anchor", "is_control", "rank", "chunk_id")
    facts = {
        "anchors": queries.height,
        "anchors_below_k": int((per_anchor < settings.candidates_per_anchor).sum()),
        "anchors_without_candidates": int((per_anchor == 0).sum()),
        "retrieved_pairs": retrieved.height,
        "control_pairs": controls.height,
        "unique_units": table.select("doc_id", "chunk_hash").n_unique(),
        "excluded_own_chunks": excluded["own_chunks"],
        "excluded_near_duplicates": excluded["near_duplicates"],
        "chunks_in_index": searching.index.n_rows,
    }
    return Made(frame=table, facts=facts, pinned={"index_tag": searching.index.tag})


def candidates_per_anchor(queries: pl.DataFrame, retrieved: pl.DataFrame) -> pl.Series:
    """Return the number of retrieved candidates of every query, 0 included."""
    counts = retrieved.group_by("doc_id", "anchor").agg(n=pl.len())
    return queries.join(counts, on=["doc_id", "anchor"], how="left")["n"].fill_null(0)


def too_few_candidates(facts: Mapping[str, Any], k: int) -> str | None:
    """Return a sentence that counts the anchors with fewer than K candidates; None if there are none."""
    below, without = facts.get("anchors_below_k", 0), facts.get("anchors_without_candidates", 0)
    if not below:
        return None
    return f"{below:,} of {facts['anchors']:,} anchors have fewer than {k} candidates, {without:,} of them have none"


def _query_vectors(encoder: TextEncoder | None, texts: list[str], long_texts: LongTexts) -> Vectors | None:
    """Return the vectors of the queries; None if retrieval is by full text or there are no queries."""
    return encode_whole(encoder, texts, long_texts)[0] if encoder is not None and texts else None


def _search(
    shard: str, searching: Searching, texts: list[str], vectors: Vectors | None, advance: Advance
) -> Callable[[np.ndarray, int], pl.DataFrame]:
    """Return a function that searches the index for some of the texts, given by their numbers.

    Its results have the columns of PinnedIndex; `query_index` is the number of the text. Document ids are unique only
    within a shard, so those of other shards get their shard as a prefix.
    """
    fused_of = FUSED_RESULTS if vectors is not None and searching.by_words else 0

    def search(numbers: np.ndarray, k: int) -> pl.DataFrame:
        lists = []
        if vectors is not None:
            lists.append(searching.index.search_dense(vectors[numbers], max(k, fused_of)))
        if searching.by_words:
            lists.append(searching.index.search_text([texts[number] for number in numbers], max(k, fused_of)))
        found = lists[0] if len(lists) == 1 else fused(lists, k)
        advance(len(numbers))
        return found.with_columns(
            query_index=pl.Series(numbers).gather(found["query_index"]).cast(pl.Int64),
            doc_id=pl.when(pl.col("shard") == shard).then("doc_id").otherwise(pl.format("{}\0{}", "shard", "doc_id")),
        )

    return search


def fused(lists: Sequence[pl.DataFrame], k: int) -> pl.DataFrame:
    """Return the k best results of each query by the sum of their reciprocal ranks in the lists, 1 / (60 + rank)."""
    ranked = [one.with_columns(fusion=1 / (RANK_CONSTANT + _place())) for one in lists]
    return (
        pl.concat(ranked)
        .group_by("query_index", "chunk_id")
        .agg(pl.exclude("similarity", "fusion").first(), similarity=pl.col("fusion").sum().cast(pl.Float32))
        .sort("query_index", "similarity", "chunk_id", descending=[False, True, False])
        .group_by("query_index", maintain_order=True)
        .head(k)
        .select(lists[0].columns)
    )


def _place() -> pl.Expr:
    """Return the place of each result among its query's, from 1."""
    return pl.int_range(1, pl.len() + 1).over("query_index")


def _draw(
    step: ShardStep,
    shard: str,
    searching: Searching,
    queries: pl.DataFrame,
    retrieved: pl.DataFrame,
    exclusions: Exclusions,
) -> pl.DataFrame:
    """Draw every root's controls and return their rows of `candidate_contexts`."""
    index, chunks = searching.index, searching.chunks
    place = {chunk_id: row for row, chunk_id in enumerate(chunks["chunk_id"])}
    taken = {root: set(ids) for root, ids in retrieved.group_by("doc_id").agg("chunk_hash").iter_rows()}
    drawn: list[tuple[str, str, str, str]] = []
    for root in queries["doc_id"].unique(maintain_order=True):
        # Bar retrieved texts.
        hashes = taken.setdefault(root, set())

        def is_free(chunk_id: str, root: str = root, hashes: set[str] = hashes) -> bool:
            _, doc_id, chunk_shard, content_hash = chunks.row(place[chunk_id])
            if content_hash in hashes or (chunk_shard, doc_id) == (shard, root):
                return False
            text = index.texts([chunk_id])["text"][0]  # two shards may have the same chunk
            return exclusions.allows(root, chunk_id, f"{chunk_shard}\0{doc_id}", text)

        # Draw free chunks.
        for chunk_id in draw_controls(
            root, searching.ring, is_free, count=step.settings.controls_per_root, seed=step.settings.seed
        ):
            _, _, chunk_shard, content_hash = chunks.row(place[chunk_id])
            hashes.add(content_hash)
            drawn.append((root, chunk_id, chunk_shard, content_hash))
    columns = ["root", "chunk_id", "shard", "content_hash"]
    return control_rows(queries, pl.DataFrame(drawn, schema=dict.fromkeys(columns, pl.String), orient="row"))
