"""Candidate contexts for uncertain positions: retrieved chunks, and random controls.

EntropyLong, "query and retrieval": the query is the text of tokens [t - w, t + w), and each anchor t gets K candidates
by cosine. Verification rewards repetition, so three kinds of chunks are excluded before the K best are taken: the
root's own chunks, near-duplicates (most of their 5-word shingles occur in the root), and further copies of a text.

Controls are a few random chunks per root, scored at all of its anchors. They are drawn by consistent hashing: each
chunk and each draw has a place on a ring, and a draw takes the next free chunk. So nearly all controls stay the same
when the index grows.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from el_assets.entropylong.anchors import seeded_hash
from el_assets.tables.schemas import polars_schema
from el_resources.store.shingles import containment, shingles

# Results asked for in addition to K, since some are excluded and a repeated search costs more.
SLACK = 24

# (indices of the queries, results wanted of each) ->
#     query_index, chunk_id, doc_id, shard, content_hash, text, similarity
Search = Callable[[np.ndarray, int], pl.DataFrame]


@dataclass
class Exclusions:
    """The rule that excludes chunks for a root; each pair is judged once, and exclusions are counted by reason.

    Attributes:
        root_texts: text of every root, by document id.
        limit: a chunk is a near-duplicate if a larger share of its shingles than this is in the root.
        counts: excluded pairs of root and chunk, by reason.
    """

    root_texts: Mapping[str, str]
    limit: float
    counts: dict[str, int] = field(default_factory=lambda: {"own_chunks": 0, "near_duplicates": 0})
    _root_shingles: dict[str, frozenset[tuple[str, ...]]] = field(default_factory=dict)
    _judged: dict[tuple[str, str], bool] = field(default_factory=dict)

    def allows(self, root: str, chunk_id: str, chunk_doc_id: str, text: str) -> bool:
        """Return True if the chunk may be a context or a control of the root."""
        key = (root, chunk_id)
        if key not in self._judged:
            self._judged[key] = self._judge(root, chunk_doc_id, text)
        return self._judged[key]

    def _judge(self, root: str, chunk_doc_id: str, text: str) -> bool:
        if chunk_doc_id == root:
            self.counts["own_chunks"] += 1
            return False
        if root not in self._root_shingles:
            self._root_shingles[root] = shingles(self.root_texts[root])
        # A text shorter than one shingle, or without words, has no shingles: look for the text itself.
        is_in_root = text in self.root_texts[root]
        if is_in_root or containment(shingles(text), self._root_shingles[root]) > self.limit:
            self.counts["near_duplicates"] += 1
            return False
        return True


def retrieve(queries: pl.DataFrame, search: Search, exclusions: Exclusions, *, k: int, n_chunks: int) -> pl.DataFrame:
    """Return the K best allowed chunks for every query; fewer only if the whole index has no more.

    Asks for K + SLACK results per query, then four times as many for the queries that have fewer than K allowed ones.

    Args:
        queries: `doc_id`, `anchor`, `query_text`, one row per anchor.
        search: searches for some of the queries, given by their row numbers.
        n_chunks: rows of the index.

    Returns:
        Columns of `candidate_contexts`, `is_control` False.
    """
    if queries.is_empty():
        return pl.DataFrame(schema=polars_schema("candidate_contexts"))
    roots = queries["doc_id"].to_list()
    pending, wanted = np.arange(queries.height), k + SLACK
    kept: list[pl.DataFrame] = []
    while len(pending):
        # Search and exclude.
        wanted = min(wanted, n_chunks)
        found = _allowed(search(pending, wanted), roots, exclusions).filter(pl.col("rank") < k)
        # Keep filled queries.
        counts = dict(found.group_by("query_index").len().iter_rows())
        filled = np.array([wanted >= n_chunks or counts.get(int(query), 0) == k for query in pending])
        kept.append(found.filter(pl.col("query_index").is_in(pending[filled].tolist())))
        # Widen the rest.
        pending, wanted = pending[~filled], wanted * 4
    numbered = queries.with_row_index("query_index").with_columns(pl.col("query_index").cast(pl.Int64))
    found = pl.concat(kept).drop("doc_id").join(numbered, on="query_index", how="inner")
    return _candidate_rows(found.with_columns(is_control=pl.lit(False)))


def _allowed(found: pl.DataFrame, roots: list[str], exclusions: Exclusions) -> pl.DataFrame:
    """Return the allowed results with their rank; among equal texts, each query keeps the best one."""
    allowed = [
        exclusions.allows(roots[query], chunk_id, doc_id, text)
        for query, chunk_id, doc_id, text in found.select("query_index", "chunk_id", "doc_id", "text").iter_rows()
    ]
    return (
        found.with_columns(pl.col("query_index").cast(pl.Int64))
        .filter(pl.Series(allowed, dtype=pl.Boolean))
        .unique(["query_index", "content_hash"], keep="first", maintain_order=True)
        .with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int32).over("query_index"))
    )


@dataclass(frozen=True)
class ControlRing:
    """All chunks of the index on a ring of 64-bit hashes, sorted by their place.

    Attributes:
        places: [n_chunks], ascending.
        chunk_ids: [n_chunks], in the same order.
    """

    places: list[int]
    chunk_ids: list[str]

    @classmethod
    def of(cls, chunk_ids: list[str], *, seed: int) -> "ControlRing":
        ring = sorted((seeded_hash(seed, "ring", chunk_id), chunk_id) for chunk_id in chunk_ids)
        return cls([place for place, _ in ring], [chunk_id for _, chunk_id in ring])

    def walk(self, start: int) -> Iterator[str]:
        """Yield all chunk ids, once around the ring, from the first place at or after `start`."""
        first = bisect_left(self.places, start)
        for step in range(len(self.chunk_ids)):
            yield self.chunk_ids[(first + step) % len(self.chunk_ids)]


def draw_controls(root: str, ring: ControlRing, is_free: Callable[[str], bool], *, count: int, seed: int) -> list[str]:
    """Return random chunks for a root; fewer than `count` only if the index has no more free ones.

    Args:
        is_free: returns true if a chunk may be a control of this root: it is allowed, and was not retrieved for it.
    """
    controls: list[str] = []
    for draw in range(count):
        for chunk_id in ring.walk(seeded_hash(seed, "control", root, str(draw))):
            if chunk_id not in controls and is_free(chunk_id):
                controls.append(chunk_id)
                break
    return controls


def control_rows(anchors: pl.DataFrame, controls: pl.DataFrame) -> pl.DataFrame:
    """Return a row for every control at every anchor of its root.

    Args:
        anchors: `doc_id`, `anchor`.
        controls: `root`, `chunk_id`, `shard`, `content_hash`.
    """
    rows = anchors.select("doc_id", "anchor").join(controls, left_on="doc_id", right_on="root", how="inner")
    return _candidate_rows(
        rows.with_columns(
            query_text=pl.lit(None, pl.String),
            rank=pl.lit(None, pl.Int32),
            similarity=pl.lit(None, pl.Float32),
            is_control=pl.lit(True),
        )
    )


def query_texts(
    entropy_maps: pl.DataFrame, decode: Callable[[np.ndarray], str], *, half_width: int, side: str = "around"
) -> pl.DataFrame:
    """Return `doc_id`, `anchor`, `query_text` of every anchor: 2w tokens of the root as text.

    Args:
        half_width: w.
        side: `around` for the tokens [anchor - w, anchor + w), `before` for [anchor - 2w, anchor).
    """
    after = half_width if side == "around" else 0
    before = 2 * half_width - after
    rows = [
        (doc_id, anchor, decode(np.asarray(token_ids[max(0, anchor - before) : anchor + after])))
        for doc_id, token_ids, anchors in entropy_maps.select("doc_id", "token_ids", "anchors").iter_rows()
        for anchor in anchors
    ]
    return pl.DataFrame(rows, schema={"doc_id": pl.String, "anchor": pl.Int32, "query_text": pl.String}, orient="row")


def _candidate_rows(found: pl.DataFrame) -> pl.DataFrame:
    schema = polars_schema("candidate_contexts")
    return (
        found.rename({"shard": "chunk_shard", "content_hash": "chunk_hash"})
        .select(pl.col(name).cast(dtype) for name, dtype in schema.items())
        .sort("doc_id", "anchor", "is_control", "rank", "chunk_id")
    )
