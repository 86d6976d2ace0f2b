"""Verified contexts and roots to sequences of exactly L tokens.

EntropyLong, "assembly": S = [shuffled kept contexts ; root]. A group is one root with its contexts, joined as they were
verified: `C1 sep C2 sep ... sep D`. Several groups, set apart by end-of-text, fill a sequence. The paper does not say
how sequences are brought to length; here whole groups are taken in seeded order, and the overflow is cut from the head
of the sequence's first context. No root is cut, no other context is cut, and no verified context is dropped to make a
fit: a root that is as long as a sequence, or whose group fits none, goes to the leftovers with its reason. L decides
here and nowhere before, so another L costs packing only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from el_assets.entropylong.anchors import seeded_hash
from el_assets.schemas import polars_schema

# Seeded orders of the remaining groups that are tried before they are left over.
ORDERS_TRIED = 200
# Why a root is left over that leaves a sequence no room for a context.
ROOT_TOO_LONG = "root_longer_than_sequence"


@dataclass(frozen=True)
class Segment:
    """A piece of a group, and whose text it is.

    Attributes:
        kind: context, root, separator or end_of_text.
        token_ids: the piece's tokens, all of them.
        source, license: of the document that it is a piece of.
        cut: tokens taken from its head.
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
        """Tokens that can be cut from the head of its longest context, one being left."""
        return max(context.n_tokens for context in self.contexts) - 1

    def headed_for(self, overflow: int) -> "Group":
        """The group with a context in front that can lose `overflow` tokens: the first as it is, else the longest."""
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
    """A group with its contexts in an order that depends on the seed and the ids only."""
    shuffled = sorted(contexts, key=lambda c: seeded_hash(seed, "shuffle", root.doc_id or "", c.chunk_id or ""))
    return Group(tuple(shuffled), root, separator_ids)


def pack(
    groups: Sequence[Group], *, length: int, end_of_text: int, seed: int
) -> tuple[list[list[Segment]], list[tuple[Group, str]]]:
    """(sequences of exactly `length` tokens as lists of segments, groups that fill none with their reason)."""
    reasons = [too_long(group, length) for group in groups]
    leftovers = [(group, reason) for group, reason in zip(groups, reasons, strict=True) if reason is not None]
    fitting = [group for group, reason in zip(groups, reasons, strict=True) if reason is None]
    fitting.sort(key=lambda group: group.root.doc_id or "")
    sequences = []
    random = np.random.default_rng(seed)
    while (chosen := _choose(fitting, length, random)) is not None:
        indices, overflow = chosen
        sequences.append(_lay_out([fitting[index] for index in indices], overflow, end_of_text))
        used = set(indices)
        fitting = [group for index, group in enumerate(fitting) if index not in used]
    return sequences, leftovers + [(group, "no_fitting_group") for group in fitting]


def too_long(group: Group, length: int) -> str | None:
    """Return why no sequence of `length` tokens can hold the whole group; None if one can."""
    if group.root.n_tokens >= length:
        return ROOT_TOO_LONG
    return "group_longer_than_sequence" if group.n_tokens - group.slack > length else None


def _choose(groups: Sequence[Group], length: int, random: np.random.Generator) -> tuple[list[int], int] | None:
    """(indices of groups that fill `length`, overflow that one context's head can lose), or None.

    Takes groups in a random order and closes the sequence with the first remaining group that makes a fit; tries
    further orders where none does. Joints between groups (one end-of-text each) count. The group that loses the
    overflow comes first.
    """
    sizes = np.array([group.n_tokens for group in groups], dtype=np.int64)
    slacks = np.array([group.slack for group in groups], dtype=np.int64)
    for _ in range(ORDERS_TRIED if len(groups) else 0):
        order = random.permutation(len(groups))
        before, taken_slack = 0, -1
        for taken, group in enumerate(order):
            overflow = before + sizes[order[taken:]] - length
            fits = np.flatnonzero((overflow >= 0) & (overflow <= np.maximum(slacks[order[taken:]], taken_slack)))
            if len(fits):
                # The first fit, not the closest: that cuts less here, but leaves three times as many groups over.
                chosen = [*order[:taken], order[taken + fits[0]]]
                lost = int(overflow[fits[0]])
                loser = next(index for index in chosen if slacks[index] >= lost)
                return [int(loser), *(int(index) for index in chosen if index != loser)], lost
            before += int(sizes[group]) + 1
            taken_slack = max(taken_slack, int(slacks[group]))
            if before >= length:
                break
    return None


def _lay_out(groups: Sequence[Group], overflow: int, end_of_text: int) -> list[Segment]:
    """The groups' segments in a row, the overflow cut from the first."""
    first, *others = groups
    segments = first.headed_for(overflow).segments()
    segments[0] = replace(segments[0], cut=overflow)
    for group in others:
        segments += [Segment("end_of_text", np.array([end_of_text], dtype=np.int32)), *group.segments()]
    return segments


def sequence_row(sequence_id: str, segments: Sequence[Segment]) -> dict[str, object]:
    """One row of `packed_sequences`; the segments' spans tile the sequence."""
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
    """The `packed_sequences` table of one shard."""
    rows = [sequence_row(f"{shard}-{number:05d}", segments) for number, segments in enumerate(sequences)]
    return pl.DataFrame(rows, schema=polars_schema("packed_sequences"), orient="row")


def leftovers_table(
    leftovers: Sequence[tuple[Group, str]], without_context: Mapping[str, int], *, length: int
) -> pl.DataFrame:
    """Return the `packing_leftovers` table: groups with their reason, and roots without a context with their length.

    A root that no sequence of `length` tokens could hold has that as its reason, with contexts or without.
    """
    rows = [(group.root.doc_id, reason, group.n_tokens) for group, reason in leftovers]
    rows += [
        (doc_id, ROOT_TOO_LONG if n_tokens >= length else "no_verified_context", n_tokens)
        for doc_id, n_tokens in without_context.items()
    ]
    return pl.DataFrame(rows, schema=polars_schema("packing_leftovers"), orient="row").sort("doc_id")
