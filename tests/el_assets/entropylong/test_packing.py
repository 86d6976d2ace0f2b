"""Sequences of exactly L tokens: by hand where groups are few, by their invariants where they are drawn."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from el_assets.entropylong.packing import (
    Group,
    Segment,
    leftovers_table,
    make_group,
    pack,
    sequence_row,
    sequences_table,
)
from el_assets.tables.schemas import polars_schema

END_OF_TEXT = 0
SEPARATOR = np.array([-1, -2], dtype=np.int32)
NO_SEPARATOR = np.array([], dtype=np.int32)


def tokens(first: int, n: int) -> NDArray[np.int32]:
    return np.arange(first, first + n, dtype=np.int32)


def context(name: str, n: int, first: int = 100) -> Segment:
    return Segment(
        "context",
        tokens(first, n),
        "doc",
        name,
        "shard",
        anchors=[1],
        reductions=[0.5],
        source="parquet:books",
        license="CC0",
    )


def group(name: str, root: int, *contexts: int, separator: NDArray[np.int32] = SEPARATOR) -> Group:
    """A root of n tokens with contexts of given lengths; tokens are unique within a group."""
    pieces = [context(f"{name}-{n}", size, 1000 * (n + 1)) for n, size in enumerate(contexts)]
    return make_group(Segment("root", tokens(1, root), doc_id=name), pieces, separator, seed=0)


def kinds(segments: Sequence[Segment]) -> list[tuple[str, int]]:
    return [(segment.kind, segment.n_tokens) for segment in segments]


class TestGroups:
    def test_contexts_are_joined_as_they_were_verified_and_the_root_is_last(self) -> None:
        made = Group((context("a", 3), context("b", 4)), Segment("root", tokens(1, 5), "r"), SEPARATOR)
        assert kinds(made.segments()) == [
            ("context", 3),
            ("separator", 2),
            ("context", 4),
            ("separator", 2),
            ("root", 5),
        ]
        assert made.n_tokens == 16
        assert made.slack == 3

    def test_an_empty_separator_leaves_no_segment(self) -> None:
        made = Group((context("a", 3),), Segment("root", tokens(1, 5), "r"), NO_SEPARATOR)
        assert kinds(made.segments()) == [("context", 3), ("root", 5)]
        assert made.n_tokens == 8

    def test_the_shuffle_depends_on_seed_and_ids_only(self) -> None:
        pieces = [context(name, 2) for name in "abcdefgh"]
        root = Segment("root", tokens(1, 5), "r")

        def order(pieces: Sequence[Segment], seed: int) -> str:
            return "".join(str(piece.chunk_id) for piece in make_group(root, pieces, SEPARATOR, seed=seed).contexts)

        assert order(pieces, 0) == order(pieces[::-1], 0)
        assert sorted(order(pieces, 0)) == list("abcdefgh")
        assert len({order(pieces, seed) for seed in range(5)}) == 5

    def test_the_head_that_is_cut_is_of_a_context_that_survives_it(self) -> None:
        made = Group((context("a", 3), context("b", 9), context("c", 5)), Segment("root", tokens(1, 5), "r"), SEPARATOR)
        heads = {overflow: made.headed_for(overflow).contexts[0].chunk_id for overflow in (0, 2, 3, 8)}
        assert heads == {0: "a", 2: "a", 3: "b", 8: "b"}
        assert [piece.chunk_id for piece in made.headed_for(3).contexts] == ["b", "a", "c"]


class TestPackingByHand:
    def test_a_group_of_exactly_the_length_is_a_sequence(self) -> None:
        sequences, leftovers = pack([group("r", 10, 4)], length=16, end_of_text=END_OF_TEXT, seed=0)
        assert [kinds(segments) for segments in sequences] == [[("context", 4), ("separator", 2), ("root", 10)]]
        assert leftovers == []

    def test_the_overflow_is_cut_from_the_head_of_the_first_context(self) -> None:
        ((segments,), leftovers) = pack([group("r", 10, 9)], length=16, end_of_text=END_OF_TEXT, seed=0)
        row = sequence_row("s", segments)
        assert row["token_ids"].tolist() == [*range(1005, 1009), -1, -2, *range(1, 11)]  # type: ignore[attr-defined]
        assert [(s["kind"], s["start"], s["end"], s["cut"]) for s in row["segments"]] == [  # type: ignore[attr-defined]
            ("context", 0, 4, 5),
            ("separator", 4, 6, 0),
            ("root", 6, 16, 0),
        ]
        assert leftovers == []

    def test_end_of_text_stands_between_groups(self) -> None:
        # 6 + 1 + 6 = 13
        groups = [group("r", 3, 1), group("s", 3, 1)]
        ((segments,), leftovers) = pack(groups, length=13, end_of_text=END_OF_TEXT, seed=0)
        one = [("context", 1), ("separator", 2), ("root", 3)]
        assert kinds(segments) == [*one, ("end_of_text", 1), *one]
        assert segments[3].token_ids.tolist() == [END_OF_TEXT]
        assert leftovers == []

    def test_the_group_that_can_lose_the_overflow_comes_first(self) -> None:
        # Neither fills 27 alone, 6 + 1 + 25 is 5 too many, and only s has a context that can lose 5.
        ((segments,), _) = pack([group("r", 3, 1), group("s", 3, 20)], length=27, end_of_text=END_OF_TEXT, seed=0)
        assert [segment.doc_id for segment in segments if segment.kind == "root"] == ["s", "r"]
        assert [segment.cut for segment in segments] == [5, 0, 0, 0, 0, 0, 0]

    @pytest.mark.parametrize(
        ("made", "length", "reason"),
        [
            (group("r", 10, 4), 17, "no_fitting_group"),  # one token too few
            (group("r", 10, 4), 12, "group_longer_than_sequence"),  # the context would have to lose all 4
            (group("r", 10, 50), 10, "root_longer_than_sequence"),  # no room for a context
            (group("r", 30, 4), 16, "root_longer_than_sequence"),
            (group("r", 10, 3, 3), 17, "group_longer_than_sequence"),  # 3 too many, and none can lose more than 2
        ],
    )
    def test_what_fills_no_sequence_is_left_over_with_its_reason(self, made: Group, length: int, reason: str) -> None:
        assert pack([made], length=length, end_of_text=END_OF_TEXT, seed=0) == ([], [(made, reason)])

    def test_one_token_of_a_context_is_enough(self) -> None:
        ((segments,), _) = pack([group("r", 10, 4)], length=13, end_of_text=END_OF_TEXT, seed=0)
        assert kinds(segments) == [("context", 1), ("separator", 2), ("root", 10)]

    def test_other_orders_are_tried_before_groups_are_left(self) -> None:
        # Of these only 8 + 1 + 11 is 20, and no context can lose a token.
        groups = [group("a", 5, 1), group("b", 7, 1), group("c", 8, 1), group("d", 16, 1)]
        sequences, leftovers = pack(groups, length=20, end_of_text=END_OF_TEXT, seed=0)
        assert [{s.doc_id for s in segments if s.kind == "root"} for segments in sequences] == [{"a", "c"}]
        assert [(left.root.doc_id, reason) for left, reason in leftovers] == [
            ("b", "no_fitting_group"),
            ("d", "no_fitting_group"),
        ]

    def test_no_groups_are_no_sequences(self) -> None:
        assert pack([], length=16, end_of_text=END_OF_TEXT, seed=0) == ([], [])


@st.composite
def many_groups(draw: st.DrawFn) -> list[Group]:
    separator = draw(st.sampled_from([SEPARATOR, NO_SEPARATOR]))
    sizes = draw(
        st.lists(st.tuples(st.integers(1, 20), st.lists(st.integers(1, 30), min_size=1, max_size=4)), max_size=12)
    )
    return [group(f"root {n}", root, *contexts, separator=separator) for n, (root, contexts) in enumerate(sizes)]


class TestPackingInvariants:
    @given(groups=many_groups(), length=st.integers(16, 60), seed=st.integers(0, 3))
    @settings(max_examples=150, deadline=None)
    def test_every_sequence_is_full_and_every_group_whole(self, groups: list[Group], length: int, seed: int) -> None:
        sequences, leftovers = pack(groups, length=length, end_of_text=END_OF_TEXT, seed=seed)
        packed: list[str | None] = []
        for segments in sequences:
            row = sequence_row("s", segments)
            check_tiling(row, segments, length)
            assert all(segment.cut == 0 for segment in segments[1:]), "only the first context loses its head"
            assert all(segment.n_tokens > 0 for segment in segments), "and not all of it"
            packed += [check_group(pieces, groups) for pieces in split_at_end_of_text(segments)]
        left = [one.root.doc_id for one, _ in leftovers]
        assert sorted(map(str, packed + left)) == sorted(str(one.root.doc_id) for one in groups), "each exactly once"
        for one, reason in leftovers:
            group_is_too_long = one.n_tokens - one.slack > length
            expected = "group_longer_than_sequence" if group_is_too_long else "no_fitting_group"
            assert reason == ("root_longer_than_sequence" if one.root.n_tokens >= length else expected)

    @given(groups=many_groups(), length=st.integers(16, 60), data=st.data())
    @settings(max_examples=60, deadline=None)
    def test_the_order_of_groups_does_not_matter(self, groups: list[Group], length: int, data: st.DataObject) -> None:
        shuffled = data.draw(st.permutations(groups))
        tables = [
            (sequences_table("a", sequences), leftovers_table(leftovers, {}, length=length))
            for sequences, leftovers in (
                pack(some, length=length, end_of_text=END_OF_TEXT, seed=0) for some in (groups, shuffled)
            )
        ]
        assert tables[0][0].equals(tables[1][0])
        assert tables[0][1].equals(tables[1][1])

    @given(groups=many_groups(), length=st.integers(16, 60))
    @settings(max_examples=60, deadline=None)
    def test_no_single_group_that_fits_is_left(self, groups: list[Group], length: int) -> None:
        """A slow look at what is left: none of it could have been a sequence by itself."""
        _, leftovers = pack(groups, length=length, end_of_text=END_OF_TEXT, seed=0)
        for one, _ in leftovers:
            longest = max(piece.n_tokens for piece in one.contexts)
            assert not 0 <= one.n_tokens - length < longest

    def test_seeds_pack_differently(self) -> None:
        groups = [group(f"root {n}", 10 + n, 20, 5) for n in range(12)]
        packed = [pack(groups, length=128, end_of_text=END_OF_TEXT, seed=seed)[0] for seed in range(4)]
        orders = {
            tuple(s.doc_id for segments in sequences for s in segments if s.kind == "root") for sequences in packed
        }
        assert len(orders) == 4

    def test_many_groups_leave_little(self) -> None:
        random = np.random.default_rng(0)
        groups = [group(f"root {n}", *random.integers(100, 400, size=3).tolist()) for n in range(300)]
        _, leftovers = pack(groups, length=2048, end_of_text=END_OF_TEXT, seed=0)
        assert sum(one.n_tokens for one, _ in leftovers) < 0.05 * sum(one.n_tokens for one in groups)


def check_tiling(row: dict[str, object], segments: Sequence[Segment], length: int) -> None:
    """Exactly L tokens, and spans that lie side by side and hold what they name."""
    ids, spans = np.asarray(row["token_ids"]), row["segments"]
    assert isinstance(spans, list)
    assert len(ids) == row["n_tokens"] == length
    assert [span["start"] for span in spans] == [0, *(span["end"] for span in spans[:-1])]
    assert spans[-1]["end"] == length
    for span, segment in zip(spans, segments, strict=True):
        assert ids[span["start"] : span["end"]].tolist() == segment.token_ids[span["cut"] :].tolist()


def split_at_end_of_text(segments: Sequence[Segment]) -> list[list[Segment]]:
    parts = groupby(segments, key=lambda segment: segment.kind == "end_of_text")
    return [list(part) for is_joint, part in parts if not is_joint]


def check_group(pieces: list[Segment], groups: Sequence[Group]) -> str | None:
    """The group's root, whole and last, after all its contexts, each followed by the separator. Returns its id."""
    *joined, root = pieces
    (made,) = (one for one in groups if one.root.doc_id == root.doc_id)
    assert (root.kind, root.cut, root.token_ids.tolist()) == ("root", 0, made.root.token_ids.tolist())
    found = [piece for piece in joined if piece.kind == "context"]
    assert sorted(str(piece.chunk_id) for piece in found) == sorted(str(piece.chunk_id) for piece in made.contexts)
    expected = ["context", "separator"] if len(made.separator_ids) else ["context"]
    assert [piece.kind for piece in joined] == expected * len(found)
    return root.doc_id


class TestTables:
    def test_sequences_name_whose_text_every_span_is(self) -> None:
        (segments,), _ = pack([group("r", 10, 4)], length=16, end_of_text=END_OF_TEXT, seed=0)
        table = sequences_table("a/b", [segments])
        assert table.schema == polars_schema("packed_sequences")
        row = table.row(0, named=True)
        assert (row["sequence_id"], row["n_tokens"]) == ("a/b-00000", 16)
        assert row["segments"][0] == {
            "kind": "context",
            "doc_id": "doc",
            "chunk_id": "r-0",
            "chunk_shard": "shard",
            "source": "parquet:books",
            "license": "CC0",
            "start": 0,
            "end": 4,
            "cut": 0,
            "anchors": [1],
            "reductions": [0.5],
        }
        assert [segment["doc_id"] for segment in row["segments"]] == ["doc", None, "r"]

    def test_leftovers_are_groups_and_roots_without_contexts(self) -> None:
        without = {"c": 7, "a": 9, "d": 20}
        table = leftovers_table([(group("b", 10, 4), "no_fitting_group")], without, length=20)
        assert table.schema == polars_schema("packing_leftovers")
        assert table.rows() == [
            ("a", "no_verified_context", 9),
            ("b", "no_fitting_group", 16),
            ("c", "no_verified_context", 7),
            ("d", "root_longer_than_sequence", 20),
        ]

    def test_a_shard_that_fills_nothing_is_two_empty_tables(self) -> None:
        assert sequences_table("a", []).equals(pl.DataFrame(schema=polars_schema("packed_sequences")))
        assert leftovers_table([], {}, length=16).equals(pl.DataFrame(schema=polars_schema("packing_leftovers")))
