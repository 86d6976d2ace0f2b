"""Retrieval and controls against brute force over a small index that lives in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from el_assets.entropylong.candidate_search import fused
from el_assets.entropylong.candidates import (
    SLACK,
    ControlRing,
    Exclusions,
    control_rows,
    draw_controls,
    query_texts,
    retrieve,
)
from el_assets.tables.schemas import polars_schema
from el_resources.store.shingles import shingles


@dataclass(frozen=True)
class Chunk:
    chunk_id: str
    doc_id: str
    text: str
    similarity: float

    @property
    def content_hash(self) -> str:
        return f"hash of {self.text}"


@dataclass
class Index:
    """An index in which a chunk is equally similar to every query; it keeps what it was asked for."""

    chunks: Sequence[Chunk]
    asked: list[tuple[list[int], int]] = field(default_factory=list)

    def search(self, numbers: NDArray[np.int64], k: int) -> pl.DataFrame:
        """The k best chunks of each query, best first, equals by id, in the columns of the real index."""
        self.asked.append((numbers.tolist(), k))
        rows = [
            (number, chunk.chunk_id, chunk.doc_id, "shard", chunk.content_hash, chunk.text, 3, chunk.similarity)
            for number in numbers.tolist()
            for chunk in sorted(self.chunks, key=lambda chunk: (-chunk.similarity, chunk.chunk_id))[:k]
        ]
        columns = ["query_index", "chunk_id", "doc_id", "shard", "content_hash", "text", "n_tokens", "similarity"]
        types = [pl.Int64, *[pl.String] * 5, pl.Int32, pl.Float32]
        return pl.DataFrame(rows, schema=dict(zip(columns, types, strict=True)), orient="row")


def queries_at(*anchors: tuple[str, int]) -> pl.DataFrame:
    rows = [(doc_id, anchor, f"query {doc_id} {anchor}") for doc_id, anchor in anchors]
    schema = {"doc_id": pl.String, "anchor": pl.Int32, "query_text": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def found_by(index: Index, queries: pl.DataFrame, roots: dict[str, str], k: int) -> pl.DataFrame:
    return retrieve(queries, index.search, Exclusions(roots, 0.5), k=k, n_chunks=len(index.chunks))


ROOT = "the root speaks of one thing and then of another thing entirely"


class TestExclusions:
    def test_own_chunks_and_near_duplicates_are_excluded_and_counted_once_each(self) -> None:
        exclusions = Exclusions({"r": ROOT, "s": "something else"}, 0.5)
        for _ in range(3):
            assert not exclusions.allows("r", "c1", "r", "whatever text")
            assert not exclusions.allows("r", "c2", "other", ROOT)
            assert exclusions.allows("r", "c3", "other", "speaks of one thing and never")  # half is not more than half
            assert exclusions.allows("s", "c2", "other", ROOT)
        assert exclusions.counts == {"own_chunks": 1, "near_duplicates": 1}

    def test_a_limit_of_one_still_excludes_own_chunks_and_whole_copies(self) -> None:
        exclusions = Exclusions({"r": ROOT}, 1.0)
        assert exclusions.allows("r", "b", "other", ROOT + " and a little more")
        assert not exclusions.allows("r", "c", "other", ROOT)
        assert not exclusions.allows("r", "d", "r", "an own chunk")


class TestRetrieval:
    def test_the_best_allowed_chunks_with_rank_and_similarity(self) -> None:
        index = Index(
            [
                Chunk("own", "r", "some own text", 0.9),
                Chunk("copy", "x", ROOT, 0.8),
                Chunk("b", "x", "first", 0.7),
                Chunk("c", "y", "first", 0.7),  # the same text again
                Chunk("a", "y", "second", 0.6),
                Chunk("d", "y", "third", 0.5),
            ]
        )
        found = found_by(index, queries_at(("r", 4)), {"r": ROOT}, k=2)
        assert found.schema == polars_schema("candidate_contexts")
        assert found.rows(named=True) == [
            {
                "doc_id": "r",
                "anchor": 4,
                "query_text": "query r 4",
                "chunk_id": chunk_id,
                "chunk_shard": "shard",
                "chunk_hash": f"hash of {text}",
                "rank": rank,
                "similarity": pytest.approx(similarity),
                "is_control": False,
            }
            for rank, (chunk_id, text, similarity) in enumerate([("b", "first", 0.7), ("a", "second", 0.6)])
        ]

    def test_exclusions_beyond_the_slack_are_searched_again_for_their_query_alone(self) -> None:
        own = [Chunk(f"own {n:03}", "r", f"own text {n}", 0.9) for n in range(SLACK + 1)]
        others = [Chunk(f"other {n:03}", "x", f"other text {n}", 0.1) for n in range(300)]
        index = Index([*own, *others])
        found = found_by(index, queries_at(("r", 1), ("s", 1)), {"r": ROOT, "s": "else"}, k=3)
        assert index.asked == [([0, 1], 3 + SLACK), ([0], 4 * (3 + SLACK))]
        ids = dict(found.group_by("doc_id").agg("chunk_id").iter_rows())
        assert ids == {"r": ["other 000", "other 001", "other 002"], "s": ["own 000", "own 001", "own 002"]}

    def test_fewer_than_k_only_where_the_index_holds_no_more(self) -> None:
        index = Index([Chunk("own", "r", "own text", 0.9), Chunk("a", "x", "text", 0.5)])
        assert found_by(index, queries_at(("r", 0)), {"r": ROOT}, k=5)["chunk_id"].to_list() == ["a"]
        assert index.asked == [([0], 2)]

    def test_a_query_that_nothing_may_serve_has_no_candidates(self) -> None:
        index = Index([Chunk("own", "r", "own text", 0.9)])
        found = found_by(index, queries_at(("r", 0), ("s", 2)), {"r": ROOT, "s": "else"}, k=5)
        assert found["doc_id"].to_list() == ["s"]

    def test_no_anchors_ask_for_nothing(self) -> None:
        index = Index([Chunk("a", "x", "text", 0.5)])
        found = found_by(index, queries_at(), {}, k=5)
        assert found.equals(pl.DataFrame(schema=polars_schema("candidate_contexts")))
        assert index.asked == []

    @given(
        chunks=st.lists(
            st.tuples(st.sampled_from("rstu"), st.sampled_from(["a", "b", "c", ROOT]), st.integers(0, 3)),
            min_size=1,
            max_size=80,
        ),
        k=st.integers(1, 4),
    )
    @settings(max_examples=60, deadline=None)
    def test_equals_brute_force(self, chunks: list[tuple[str, str, int]], k: int) -> None:
        # A text of one letter repeats often, so that many results must be passed over.
        index = Index([Chunk(f"{n:03}", doc_id, text, s / 4) for n, (doc_id, text, s) in enumerate(chunks)])
        roots = {"r": ROOT, "s": "a", "v": "nothing"}
        queries = queries_at(("r", 3), ("s", 0), ("r", 1), ("v", 9))
        exclusions = Exclusions(roots, 0.5)
        found = retrieve(queries, index.search, exclusions, k=k, n_chunks=len(chunks))
        expected = [
            (doc_id, anchor, chunk.chunk_id, rank)
            for doc_id, anchor in sorted(queries.select("doc_id", "anchor").rows())
            for rank, chunk in enumerate(brute_force(index.chunks, doc_id, roots[doc_id], k))
        ]
        assert found.select("doc_id", "anchor", "chunk_id", "rank").rows() == expected


def brute_force(chunks: Sequence[Chunk], root: str, root_text: str, k: int) -> list[Chunk]:
    """The k best chunks one by one: not the root's, not mostly contained in it, no text twice."""
    kept: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: (-chunk.similarity, chunk.chunk_id)):
        inside = shingles(chunk.text) & shingles(root_text)
        is_copy = chunk.text in root_text or len(inside) > 0.5 * len(shingles(chunk.text))
        if chunk.doc_id == root or is_copy:
            continue
        if chunk.text not in [other.text for other in kept]:
            kept.append(chunk)
    return kept[:k]


class TestControls:
    NAMES = tuple(f"chunk {number}" for number in range(200))

    def test_the_ring_is_walked_once_around_from_any_place(self) -> None:
        ring = ControlRing([10, 20, 30], ["a", "b", "c"])
        starts = {0: "abc", 10: "abc", 11: "bca", 30: "cab", 31: "abc"}
        assert {start: "".join(ring.walk(start)) for start in starts} == starts

    def test_the_ring_does_not_depend_on_the_order_of_chunks(self) -> None:
        assert ControlRing.of(list(self.NAMES), seed=1) == ControlRing.of(list(reversed(self.NAMES)), seed=1)
        assert ControlRing.of(list(self.NAMES), seed=1) != ControlRing.of(list(self.NAMES), seed=2)

    def test_controls_are_free_and_differ(self) -> None:
        ring = ControlRing.of(list(self.NAMES), seed=0)
        drawn = [
            draw_controls(f"root {n}", ring, lambda chunk: not chunk.endswith("7"), count=4, seed=0) for n in range(50)
        ]
        assert all(len(set(controls)) == 4 for controls in drawn)
        assert not any(chunk.endswith("7") for controls in drawn for chunk in controls)
        assert len({chunk for controls in drawn for chunk in controls}) > 80, "roots draw their own"

    def test_what_is_not_free_gives_way_to_the_next_on_the_ring(self) -> None:
        ring = ControlRing.of(list(self.NAMES), seed=0)
        (first,) = draw_controls("root", ring, lambda chunk: True, count=1, seed=0)
        (second,) = draw_controls("root", ring, lambda chunk: chunk != first, count=1, seed=0)
        following = ring.walk(ring.places[ring.chunk_ids.index(first)])
        assert list(islice(following, 2)) == [first, second]

    def test_fewer_only_where_no_more_are_free(self) -> None:
        ring = ControlRing.of(["a", "b", "c"], seed=0)
        assert sorted(draw_controls("root", ring, lambda chunk: chunk != "b", count=4, seed=0)) == ["a", "c"]
        assert draw_controls("root", ControlRing.of([], seed=0), lambda chunk: True, count=4, seed=0) == []
        assert draw_controls("root", ring, lambda chunk: True, count=0, seed=0) == []

    def test_an_index_that_grew_keeps_most_controls(self) -> None:
        def drawn(names: list[str]) -> set[tuple[str, str]]:
            ring = ControlRing.of(names, seed=0)
            roots = [f"root {number}" for number in range(50)]
            return {(root, c) for root in roots for c in draw_controls(root, ring, lambda chunk: True, count=4, seed=0)}

        before = drawn(list(self.NAMES))
        after = drawn([*self.NAMES, *(f"new {number}" for number in range(20))])
        assert len(before) == 200
        assert len(before & after) > 150

    def test_every_control_stands_at_every_anchor_of_its_root(self) -> None:
        controls = pl.DataFrame(
            [("r", "c2", "s", "h2"), ("r", "c1", "s", "h1"), ("u", "c1", "s", "h1")],
            schema=["root", "chunk_id", "shard", "content_hash"],
            orient="row",
        )
        rows = control_rows(queries_at(("r", 5), ("t", 1), ("r", 2)), controls)
        assert rows.schema == polars_schema("candidate_contexts")
        assert rows.select("doc_id", "anchor", "chunk_id", "is_control", "rank", "similarity", "query_text").rows() == [
            ("r", anchor, chunk_id, True, None, None, None) for anchor in (2, 5) for chunk_id in ("c1", "c2")
        ]

    def test_no_anchors_and_no_controls_give_no_rows(self) -> None:
        none = pl.DataFrame(schema=dict.fromkeys(["root", "chunk_id", "shard", "content_hash"], pl.String))
        for queries in (queries_at(), queries_at(("r", 1))):
            assert control_rows(queries, none).equals(pl.DataFrame(schema=polars_schema("candidate_contexts")))


def test_a_query_is_the_text_around_its_anchor() -> None:
    """Tokens [anchor - w, anchor + w), cut at the root's ends."""
    maps = pl.DataFrame({"doc_id": ["r", "s"], "token_ids": [list(range(10)), [7]], "anchors": [[0, 2, 5, 9], []]})
    found = query_texts(maps, lambda ids: " ".join(map(str, ids.tolist())), half_width=2)
    assert found.rows() == [("r", 0, "0 1"), ("r", 2, "0 1 2 3"), ("r", 5, "3 4 5 6"), ("r", 9, "7 8 9")]
    assert query_texts(maps.clear(), str, half_width=2).schema == found.schema
    before = query_texts(maps, lambda ids: " ".join(map(str, ids.tolist())), half_width=2, side="before")
    assert before["query_text"].to_list() == ["", "0 1", "1 2 3 4", "5 6 7 8"]


@pytest.mark.parametrize("text", ["short text", "-----", "x = 1"])
def test_a_text_that_stands_in_the_root_is_no_context_however_short(text: str) -> None:
    exclusions = Exclusions({"root": f"Before it. {text} Behind it."}, limit=0.5)
    assert not exclusions.allows("root", "other@0-aa", "other", text)
    assert exclusions.allows("root", "other@9-bb", "other", "something else")
    assert exclusions.counts == {"own_chunks": 0, "near_duplicates": 1}


def test_fusion_by_hand() -> None:
    def found(*chunks: str) -> pl.DataFrame:
        return pl.DataFrame(
            {"query_index": [0] * len(chunks), "chunk_id": chunks, "text": chunks, "similarity": [0.5] * len(chunks)},
            schema_overrides={"similarity": pl.Float32},
        )

    table = fused([found("a", "b", "c"), found("c", "d")], k=3)
    # c: 1/63 + 1/61; a: 1/61; b and d: 1/62, in the order of ids.
    assert table["chunk_id"].to_list() == ["c", "a", "b"]
    np.testing.assert_allclose(table["similarity"], [1 / 63 + 1 / 61, 1 / 61, 1 / 62], rtol=1e-6)
