"""Verification: does a context in front of a root lower the model's entropy at the root's uncertain positions?

EntropyLong, "verification": ΔI = (H_t - H'_t) / H_t with H' measured on [C ; D_<t], one candidate at a time. One
forward of [BOS] C sep D answers for every anchor of D, so the work is one forward per unique (root, chunk) - a unit -
cut behind its last wanted anchor, and never one per (anchor, chunk). Units of one chunk read it together, once.

Pairs that an earlier table of the shard scored under the same scorer and joint are taken over; only new pairs cost a
forward.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from el_assets.schemas import CONTEXT_SCORES
from el_resources.shard_tables import digest

# Units whose tokens are held at once; enough to fill many batches of like lengths.
UNITS_PER_BLOCK = 4096
PAIR = ("root_hash", "chunk_hash", "anchor")
AFTER = ("entropy_after_nats", "nll_after_nats")


@dataclass(frozen=True)
class Unit:
    """A (root, chunk) and the root's anchors at which it is wanted."""

    doc_id: str
    chunk_hash: str
    anchors: Sequence[int]


@dataclass(frozen=True)
class Joint:
    """How a context is put in front of a root: `C sep D`, as token ids of the parts.

    Tokenizing the parts by themselves keeps the root's ids those of its entropy map.
    """

    separator_ids: np.ndarray

    def sequence(self, chunk_ids: np.ndarray, root_ids: np.ndarray, last_anchor: int) -> np.ndarray:
        """Token ids up to and including the last anchor's token."""
        return np.concatenate([chunk_ids, self.separator_ids, root_ids[: last_anchor + 1]])

    def positions(self, chunk_ids: np.ndarray, anchors: Sequence[int]) -> np.ndarray:
        """The root's anchors as positions of the joined sequence."""
        return np.asarray(anchors, dtype=np.int64) + self.n_before(chunk_ids)

    def n_before(self, chunk_ids: np.ndarray) -> int:
        """Tokens before the root, which a sequence has in common with those of other roots behind the same chunk."""
        return len(chunk_ids) + len(self.separator_ids)


# (sequences, positions, tokens that may begin others too) -> for each (entropy in nats, NLL in nats) at its positions
Score = Callable[[list[np.ndarray], list[np.ndarray], list[int]], list[tuple[np.ndarray, np.ndarray]]]


def root_hash(token_ids: Sequence[int]) -> str:
    """Hash of a root's tokens."""
    return digest(list(token_ids))


def pairs_with_before(candidates: pl.DataFrame, entropy_maps: pl.DataFrame) -> pl.DataFrame:
    """The candidate pairs with entropy and NLL before, read from the roots' entropy maps at their anchors."""
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
    """(pairs whose scores an earlier table holds, with them; pairs still to be scored).

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
    """One unit per (root, chunk text), its anchors ascending."""
    grouped = pairs.group_by("doc_id", "chunk_hash", maintain_order=True).agg(pl.col("anchor").unique().sort())
    return [Unit(doc_id, chunk_hash, anchors) for doc_id, chunk_hash, anchors in grouped.iter_rows()]


def blocks(units: Sequence[Unit], size: int = UNITS_PER_BLOCK) -> Iterator[Sequence[Unit]]:
    """The units in runs of at most `size`."""
    for start in range(0, len(units), size):
        yield units[start : start + size]


def score_units(
    units: Sequence[Unit],
    roots: Mapping[str, np.ndarray],
    chunks: Mapping[str, np.ndarray],
    joint: Joint,
    score: Score,
) -> pl.DataFrame:
    """`doc_id, chunk_hash, anchor, entropy_after_nats, nll_after_nats` for every unit's anchors.

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

    Set aside are the pairs without finite scores, and all pairs of an anchor that lost a control: with fewer rivals to
    beat, a candidate there would pass more easily than elsewhere.
    """
    finite = pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in AFTER)
    robbed = pairs.filter(pl.col("is_control") & ~finite).select("doc_id", "anchor").unique()
    numbered = pairs.with_row_index("number")
    fine = numbered.filter(finite).join(robbed, on=["doc_id", "anchor"], how="anti", maintain_order="left")
    lost = numbered.join(fine.select("number"), on="number", how="anti", maintain_order="left")
    return fine.drop("number"), lost.drop("number")


def pair_names(pairs: pl.DataFrame) -> list[str]:
    """Return each pair's root, anchor and chunk in words."""
    keys = pairs.select("doc_id", "anchor", "chunk_id").iter_rows()
    return [f"root {doc_id!r}, anchor {anchor}, chunk {chunk_id!r}" for doc_id, anchor, chunk_id in keys]


def with_reductions(pairs: pl.DataFrame) -> pl.DataFrame:
    """The `context_scores` table: pairs with scores before and after, and their relative reductions.

    A relative fall of something that is already zero is zero: nothing was left to reduce.
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
    """What one forward per (anchor, chunk) over BOS, chunk, separator and the whole root would have cost."""
    units = pairs.group_by("doc_id", "chunk_hash").len()
    tokens = sum(
        count * (1 + len(chunks[chunk_hash]) + len(joint.separator_ids) + len(roots[doc_id]))
        for doc_id, chunk_hash, count in units.iter_rows()
    )
    return {"per_pair_forwards": pairs.height, "per_pair_tokens": tokens}
