"""Packing of verified contexts and roots into sequences of exactly L tokens.

EntropyLong, "assembly": S = [shuffled kept contexts ; root]. A group is one root D with its contexts, joined by the
separator as in verification: `C1 sep C2 sep ... sep D`. Several groups, separated by end-of-text, fill a sequence. The
paper does not say how sequences get their exact length. Here whole groups are taken in a seeded random order until they
reach L tokens, and the tokens beyond L (the overflow) are cut from the head of the sequence's first context.

Guarantees: no root is cut, no context but the first is cut, and no verified context is dropped to make a fit. A root
is left over, with a reason, if it is as long as a sequence or if its group fits into none. No earlier step depends on
L, so for another L only packing is done again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from el_assets.entropylong.anchors import seeded_hash
from el_assets.tables.schemas import polars_schema

# Random orders of the remaining groups that are tried before these groups are left over.
ORDERS_TRIED = 200
# Reason of a leftover root that leaves no room for a context in a sequence.
ROOT_TOO_LONG = "root_longer_than_sequence"


@dataclass(frozen=True)
class Segment:
    """A piece of a group, with its origin.

    Attributes:
        kind: context, root, separator or end_of_text.
        token_ids: all tokens of the piece, the cut ones included.
        doc_id, source, license: document of the piece, with its source and licence.
        chunk_id, chunk_shard: chunk of a context, and its shard.
        anchors, reductions: positions of the root that a context verifies, and its relative reductions there.
        cut: number of tokens cut from the head.
    """

    kind: str
    token_ids: np.ndarray
    doc_id: str | None = None
    chunk_id: str | None = None
    chunk_shard: str | None = None
    anchors: Sequence[int] | None = None
    reductions: Sequence[float] | None = None
    source: str | None = None
    license: str | None = None
    cut: int = 0

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids) - self.cut


@dataclass(frozen=True)
class Group:
    """A root and its verified contexts, in their shuffled order."""

    contexts: tuple[Segment, ...]
    root: Segment
    separator_ids: np.ndarray

    @property
    def n_tokens(self) -> int:
        joints = len(self.contexts) * len(self.separator_ids)
        return sum(context.n_tokens for context in self.contexts) + joints + self.root.n_tokens

    @property
    def slack(self) -> int:
        """Number of tokens that can be cut from the head of the longest context: all but one."""
        return max(context.n_tokens for context in self.contexts) - 1

    def headed_for(self, overflow: int) -> "Group":
        """Return the group with a first context that is longer than `overflow`, if need be its longest one."""
        if self.contexts[0].n_tokens > overflow:
            return self
        longest = max(range(len(self.contexts)), key=lambda index: self.contexts[index].n_tokens)
        rest = self.contexts[:longest] + self.contexts[longest + 1 :]
        return replace(self, contexts=(self.contexts[longest], *rest))

    def segments(self) -> list[Segment]:
        separator = Segment("separator", self.separator_ids)
        joined = (
            [piece for context in self.contexts for piece in (context, separator)]
            if len(self.separator_ids)
            else list(self.contexts)
        )
        return [*joined, self.root]


def make_group(root: Segment, contexts: Sequence[Segment], separator_ids: np.ndarray, *, seed: int) -> Group:
    """Return a group with its contexts in an order that depends on the seed and the ids only."""
    shuffled = sorted(contexts, key=lambda c: seeded_hash(seed, "shuffle", root.doc_id or "", c.chunk_id or ""))
    return Group(tuple(shuffled), root, separator_ids)


def pack(
    groups: Sequence[Group], *, length: int, end_of_text: int, seed: int
) -> tuple[list[list[Segment]], list[tuple[Group, str]]]:
    """Return (sequences of exactly `length` tokens, each a list of segments; groups left over, with reasons).

    Example:
        >>> context, root = Segment("context", np.arange(5)), Segment("root", np.arange(4), doc_id="d")
        >>> group = make_group(root, [context], np.array([0]), seed=0)
        >>> sequences, leftovers = pack([group], length=8, end_of_text=0, seed=0)
        >>> [(segment.kind, segment.n_tokens, segment.cut) for segment in sequences[0]]
        [('context', 3, 2), ('separator', 1, 0), ('root', 4, 0)]
    """
    # Set misfits apart.
    reasons = [too_long(group, length) for group in groups]
    leftovers = [(group, reason) for group, reason in zip(groups, reasons, strict=True) if reason is not None]
    fitting = [group for group, reason in zip(groups, reasons, strict=True) if reason is None]
    # Fix the order.
    fitting.sort(key=lambda group: group.root.doc_id or "")
    sequences = []
    random = np.random.default_rng(seed)
    while (chosen := _choose(fitting, length, random)) is not None:
        # Join one sequence.
        indices, overflow = chosen
        sequences.append(_lay_out([fitting[index] for index in indices], overflow, end_of_text))
        # Remove used groups.
        used = set(indices)
        fitting = [group for index, group in enumerate(fitting) if index not in used]
    return sequences, leftovers + [(group, "no_fitting_group") for group in fitting]


def too_long(group: Group, length: int) -> str | None:
    """Return why no sequence of `length` tokens can hold the whole group; None if one can."""
    if group.root.n_tokens >= length:
        return ROOT_TOO_LONG
    return "group_longer_than_sequence" if group.n_tokens - group.slack > length else None


def _choose(groups: Sequence[Group], length: int, random: np.random.Generator) -> tuple[list[int], int] | None:
    """Return (indices of groups that fill `length`, overflow); None if none of the orders tried gives a fit.

    Groups are taken in a random order until one of the remaining groups makes a fit and closes the sequence. A fit
    means that the groups, with one end-of-text between each two, reach `length` or exceed it by an overflow that one of
    them can lose from the head of its longest context. If an order gives no fit, another one is tried. The group that
    loses the overflow is the first in the result.
    """
    sizes = np.array([group.n_tokens for group in groups], dtype=np.int64)
    slacks = np.array([group.slack for group in groups], dtype=np.int64)
    for _ in range(ORDERS_TRIED if len(groups) else 0):
        # Draw an order.
        order = random.permutation(len(groups))
        before, taken_slack = 0, -1
        for taken, group in enumerate(order):
            # Try closing groups.
            overflow = before + sizes[order[taken:]] - length
            fits = np.flatnonzero((overflow >= 0) & (overflow <= np.maximum(slacks[order[taken:]], taken_slack)))
            if len(fits):
                # Take the first fit: the closest one cuts less, but leaves three times as many groups over.
                chosen = [*order[:taken], order[taken + fits[0]]]
                # Put loser first.
                lost = int(overflow[fits[0]])
                loser = next(index for index in chosen if slacks[index] >= lost)
                return [int(loser), *(int(index) for index in chosen if index != loser)], lost
            # Take this group.
            before += int(sizes[group]) + 1
            taken_slack = max(taken_slack, int(slacks[group]))
            if before >= length:
                break
    return None


def _lay_out(groups: Sequence[Group], overflow: int, end_of_text: int) -> list[Segment]:
    """Return the groups' segments in a row, with the overflow cut from the first segment."""
    first, *others = groups
    segments = first.headed_for(overflow).segments()
    segments[0] = replace(segments[0], cut=overflow)
    for group in others:
        segments += [Segment("end_of_text", np.array([end_of_text], dtype=np.int32)), *group.segments()]
    return segments


def sequence_row(sequence_id: str, segments: Sequence[Segment]) -> dict[str, object]:
    """Return one row of `packed_sequences`; the segments' spans tile the sequence."""
    ends = np.cumsum([segment.n_tokens for segment in segments])
    return {
        "sequence_id": sequence_id,
        "token_ids": np.concatenate([segment.token_ids[segment.cut :] for segment in segments]),
        "n_tokens": int(ends[-1]),
        "segments": [
            {
                "kind": segment.kind,
                "doc_id": segment.doc_id,
                "chunk_id": segment.chunk_id,
                "chunk_shard": segment.chunk_shard,
                "source": segment.source,
                "license": segment.license,
                "start": int(end) - segment.n_tokens,
                "end": int(end),
                "cut": segment.cut,
                "anchors": segment.anchors,
                "reductions": segment.reductions,
            }
            for segment, end in zip(segments, ends, strict=True)
        ],
    }


def sequences_table(shard: str, sequences: Sequence[Sequence[Segment]]) -> pl.DataFrame:
    """Return the `packed_sequences` table of one shard."""
    rows = [sequence_row(f"{shard}-{number:05d}", segments) for number, segments in enumerate(sequences)]
    return pl.DataFrame(rows, schema=polars_schema("packed_sequences"), orient="row")


def leftovers_table(
    leftovers: Sequence[tuple[Group, str]], without_context: Mapping[str, int], *, length: int
) -> pl.DataFrame:
    """Return the `packing_leftovers` table: groups left over, and roots without a verified context.

    Args:
        leftovers: groups with their reason.
        without_context: number of tokens of each root without a verified context.
        length: tokens of a sequence; a root that is not shorter gets this as its reason, with or without contexts.
    """
    rows = [(group.root.doc_id, reason, group.n_tokens) for group, reason in leftovers]
    rows += [
        (doc_id, ROOT_TOO_LONG if n_tokens >= length else "no_verified_context", n_tokens)
        for doc_id, n_tokens in without_context.items()
    ]
    return pl.DataFrame(rows, schema=polars_schema("packing_leftovers"), orient="row").sort("doc_id")
