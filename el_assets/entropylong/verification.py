"""Verification: does a context in front of a root lower the model's entropy at the root's uncertain positions?

EntropyLong, "verification": ΔI = (H_t - H'_t) / H_t, where H' is measured on [C ; D_<t] with one candidate C at a time.

One forward of [BOS] C sep D scores every anchor of D. So there is one forward per unique (root, chunk), not one per
(anchor, chunk). Such a pair is called a unit; its sequence ends at the last anchor that is wanted. Units of the same
chunk share it as a prefix, which is read once. Pairs that the shard's earlier table holds for the same scorer and joint
are reused, so only new pairs cost a forward.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from el_assets.entropylong.tables import CONTEXT_SCORES
from el_resources.store.stamps import digest

# Units whose tokens are in memory at once: enough to fill many batches of similar lengths.
UNITS_PER_BLOCK = 4096
PAIR = ("root_hash", "chunk_hash", "anchor")
AFTER = ("entropy_after_nats", "nll_after_nats")


@dataclass(frozen=True)
class Unit:
    """A root, a chunk, and the anchors at which scores are wanted."""

    doc_id: str
    chunk_hash: str
    anchors: Sequence[int]


@dataclass(frozen=True)
class Joint:
    """The way in which a context is put in front of a root: `C sep D`, as token ids.

    The parts are tokenized separately, so the root has the same ids as in its entropy map.
    """

    separator_ids: np.ndarray

    def sequence(self, chunk_ids: np.ndarray, root_ids: np.ndarray, last_anchor: int) -> np.ndarray:
        """Return the joined token ids up to and including the last anchor's token."""
        return np.concatenate([chunk_ids, self.separator_ids, root_ids[: last_anchor + 1]])

    def positions(self, chunk_ids: np.ndarray, anchors: Sequence[int]) -> np.ndarray:
        """Return the root's anchors as positions of the joined sequence."""
        return np.asarray(anchors, dtype=np.int64) + self.n_before(chunk_ids)

    def n_before(self, chunk_ids: np.ndarray) -> int:
        """Return the number of tokens before the root: the prefix shared with other roots after the same chunk."""
        return len(chunk_ids) + len(self.separator_ids)


# (sequences, positions, lengths of shared prefixes) -> for each sequence (entropy, NLL) at its positions, in nats
Score = Callable[[list[np.ndarray], list[np.ndarray], list[int]], list[tuple[np.ndarray, np.ndarray]]]


def root_hash(token_ids: Sequence[int]) -> str:
    """Return the hash of a root's tokens."""
    return digest(list(token_ids))


def pairs_with_before(candidates: pl.DataFrame, entropy_maps: pl.DataFrame) -> pl.DataFrame:
    """Add entropy and NLL without the context to the pairs, read from the entropy maps at the anchors."""
    at_anchors = (
        entropy_maps.select(
            "doc_id",
            anchor="anchors",
            root_hash=pl.col("token_ids").map_elements(lambda ids: root_hash(ids.to_list()), return_dtype=pl.String),
            entropy_before_nats=pl.col("entropy_nats").list.gather(pl.col("anchors")),
            nll_before_nats=pl.col("nll_nats").list.gather(pl.col("anchors")),
        )
        .filter(pl.col("anchor").list.len() > 0)
        .explode("anchor", "entropy_before_nats", "nll_before_nats")
    )
    return candidates.drop("query_text").join(at_anchors, on=["doc_id", "anchor"], how="inner", maintain_order="left")


def split_known(pairs: pl.DataFrame, earlier: pl.DataFrame | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (pairs that an earlier table has scored, with the scores; pairs that must be scored).

    Args:
        earlier: a `context_scores` table made by the same scorer and joint, or None.
    """
    if earlier is None or earlier.is_empty():
        return pairs.clear().with_columns(pl.lit(None, pl.Float32).alias(name) for name in AFTER), pairs
    known = earlier.select(*PAIR, *AFTER).unique(list(PAIR))
    return (
        pairs.join(known, on=list(PAIR), how="inner", maintain_order="left"),
        pairs.join(known, on=list(PAIR), how="anti", maintain_order="left"),
    )


def plan_units(pairs: pl.DataFrame) -> list[Unit]:
    """Return one unit per (root, chunk text), with its anchors ascending."""
    grouped = pairs.group_by("doc_id", "chunk_hash", maintain_order=True).agg(pl.col("anchor").unique().sort())
    return [Unit(doc_id, chunk_hash, anchors) for doc_id, chunk_hash, anchors in grouped.iter_rows()]


def blocks(units: Sequence[Unit], size: int = UNITS_PER_BLOCK) -> Iterator[Sequence[Unit]]:
    """Yield the units in blocks of at most `size`."""
    for start in range(0, len(units), size):
        yield units[start : start + size]


def score_units(
    units: Sequence[Unit],
    roots: Mapping[str, np.ndarray],
    chunks: Mapping[str, np.ndarray],
    joint: Joint,
    score: Score,
) -> pl.DataFrame:
    """Return `doc_id, chunk_hash, anchor, entropy_after_nats, nll_after_nats` for the anchors of every unit.

    Args:
        roots: token ids by document id.
        chunks: token ids by hash of the chunk's text.
    """
    sequences = [joint.sequence(chunks[u.chunk_hash], roots[u.doc_id], u.anchors[-1]) for u in units]
    positions = [joint.positions(chunks[u.chunk_hash], u.anchors) for u in units]
    scores = score(sequences, positions, [joint.n_before(chunks[u.chunk_hash]) for u in units])
    return pl.DataFrame(
        {
            "doc_id": [u.doc_id for u in units],
            "chunk_hash": [u.chunk_hash for u in units],
            "anchor": pl.Series([list(u.anchors) for u in units], dtype=pl.List(pl.Int32)),
            "entropy_after_nats": pl.Series([entropy for entropy, _ in scores], dtype=pl.List(pl.Float32)),
            "nll_after_nats": pl.Series([nll for _, nll in scores], dtype=pl.List(pl.Float32)),
        },
        schema_overrides={"doc_id": pl.String, "chunk_hash": pl.String},
    ).explode("anchor", *AFTER)


def split_finite(pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (pairs whose scores are finite; pairs that are set aside).

    Pairs without finite scores are set aside. If one of them is a control, all pairs of its anchor are set aside too:
    with fewer controls to beat, candidates there would pass more easily than elsewhere.
    """
    finite = pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in AFTER)
    robbed = pairs.filter(pl.col("is_control") & ~finite).select("doc_id", "anchor").unique()
    numbered = pairs.with_row_index("number")
    fine = numbered.filter(finite).join(robbed, on=["doc_id", "anchor"], how="anti", maintain_order="left")
    lost = numbered.join(fine.select("number"), on="number", how="anti", maintain_order="left")
    return fine.drop("number"), lost.drop("number")


def pair_names(pairs: pl.DataFrame) -> list[str]:
    """Return a description of each pair: root, anchor and chunk."""
    keys = pairs.select("doc_id", "anchor", "chunk_id").iter_rows()
    return [f"root {doc_id!r}, anchor {anchor}, chunk {chunk_id!r}" for doc_id, anchor, chunk_id in keys]


def with_reductions(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the `context_scores` table: pairs with scores before and after, and their relative reductions.

    If a score is zero without the context, its relative reduction is zero.
    """
    return pairs.with_columns(
        reduction=_relative_fall("entropy_before_nats", "entropy_after_nats"),
        nll_reduction=_relative_fall("nll_before_nats", "nll_after_nats"),
    ).select(list(CONTEXT_SCORES))


def _relative_fall(before: str, after: str) -> pl.Expr:
    fall = (pl.col(before) - pl.col(after)) / pl.col(before)
    return pl.when(pl.col(before) > 0).then(fall).otherwise(0.0).cast(pl.Float32)


def per_pair_cost(
    pairs: pl.DataFrame, roots: Mapping[str, np.ndarray], chunks: Mapping[str, np.ndarray], joint: Joint
) -> dict[str, int]:
    """Return the cost of the naive way: one forward over BOS, chunk, separator and root for each (anchor, chunk)."""
    units = pairs.group_by("doc_id", "chunk_hash").len()
    tokens = sum(
        count * (1 + len(chunks[chunk_hash]) + len(joint.separator_ids) + len(roots[doc_id]))
        for doc_id, chunk_hash, count in units.iter_rows()
    )
    return {"per_pair_forwards": pairs.height, "per_pair_tokens": tokens}
