"""One forward per (root, chunk) against one per (anchor, chunk), under a scorer with an analytic answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from el_assets.entropylong.verification import (
    AFTER,
    Joint,
    Unit,
    blocks,
    pairs_with_before,
    per_pair_cost,
    plan_units,
    root_hash,
    score_units,
    split_known,
    with_reductions,
)
from el_assets.tables.schemas import polars_schema

Ids = NDArray[np.int32]
SEPARATOR = np.array([91, 92], dtype=np.int32)
JOINT = Joint(SEPARATOR)


def ids(*values: int) -> Ids:
    return np.array(values, dtype=np.int32)


@dataclass
class SumScorer:
    """A causal scorer to check by hand: entropy[t] is the sum of the tokens before t, NLL[t] the token t itself.

    It reads everything before a position and nothing after it, as a language model does.
    """

    sequences: list[list[int]] = field(default_factory=list)
    n_common: list[int] = field(default_factory=list)

    def __call__(
        self, sequences: Sequence[Ids], positions: Sequence[NDArray[np.int64]], n_common: Sequence[int]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        self.sequences += [sequence.tolist() for sequence in sequences]
        self.n_common += n_common
        return [
            (
                np.array([sequence[:position].sum() for position in wanted], dtype=np.float32),
                sequence[wanted].astype(np.float32),
            )
            for sequence, wanted in zip(sequences, positions, strict=True)
        ]


ROOTS = {"r": ids(1, 2, 3, 4, 5), "s": ids(7)}
CHUNKS = {"h1": ids(10, 20), "h2": ids(30)}


def pairs_of(*rows: tuple[str, str, int]) -> pl.DataFrame:
    schema = {"doc_id": pl.String, "chunk_hash": pl.String, "anchor": pl.Int32}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


class TestUnits:
    def test_one_unit_per_root_and_text_with_its_anchors_ascending(self) -> None:
        pairs = pairs_of(("r", "h2", 4), ("r", "h1", 3), ("r", "h2", 1), ("s", "h1", 0), ("r", "h2", 4))
        assert plan_units(pairs) == [Unit("r", "h2", [1, 4]), Unit("r", "h1", [3]), Unit("s", "h1", [0])]
        assert plan_units(pairs_of()) == []

    def test_blocks_hold_all_units_in_order(self) -> None:
        units = [Unit("r", str(number), [0]) for number in range(5)]
        assert [[unit.chunk_hash for unit in block] for block in blocks(units, 2)] == [["0", "1"], ["2", "3"], ["4"]]
        assert list(blocks([], 2)) == []

    def test_a_sequence_is_context_separator_and_root_up_to_the_last_anchor(self) -> None:
        assert JOINT.sequence(CHUNKS["h1"], ROOTS["r"], 2).tolist() == [10, 20, 91, 92, 1, 2, 3]
        assert JOINT.positions(CHUNKS["h1"], [0, 2]).tolist() == [4, 6]
        assert Joint(ids()).sequence(CHUNKS["h2"], ROOTS["s"], 0).tolist() == [30, 7]

    def test_scores_by_hand(self) -> None:
        scorer = SumScorer()
        found = score_units([Unit("r", "h1", [0, 2]), Unit("s", "h2", [0])], ROOTS, CHUNKS, JOINT, scorer)
        assert scorer.sequences == [[10, 20, 91, 92, 1, 2, 3], [30, 91, 92, 7]]
        assert scorer.n_common == [4, 3]  # chunk and separator
        assert found.rows() == [
            ("r", "h1", 0, 213.0, 1.0),  # 10 + 20 + 91 + 92
            ("r", "h1", 2, 216.0, 3.0),  # ... + 1 + 2
            ("s", "h2", 0, 213.0, 7.0),  # 30 + 91 + 92
        ]

    def test_no_units_are_an_empty_table(self) -> None:
        found = score_units([], ROOTS, CHUNKS, JOINT, SumScorer())
        assert found.height == 0
        assert found.columns == ["doc_id", "chunk_hash", "anchor", *AFTER]

    @given(
        roots=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1, max_size=3),
        chunks=st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=1, max_size=3),
        separator=st.lists(st.integers(0, 50), max_size=2),
        data=st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_equals_one_forward_per_pair(
        self, roots: list[list[int]], chunks: list[list[int]], separator: list[int], data: st.DataObject
    ) -> None:
        root_ids = {f"root {n}": ids(*tokens) for n, tokens in enumerate(roots)}
        chunk_ids = {f"chunk {n}": ids(*tokens) for n, tokens in enumerate(chunks)}
        every = [(r, c, a) for r, tokens in root_ids.items() for c in chunk_ids for a in range(len(tokens))]
        rows = data.draw(st.lists(st.sampled_from(every), unique=True))
        joint, scorer, slow = Joint(ids(*separator)), SumScorer(), SumScorer()
        found = score_units(plan_units(pairs_of(*rows)), root_ids, chunk_ids, joint, scorer)
        expected = []
        for root, chunk, anchor in rows:
            sequence = np.concatenate([chunk_ids[chunk], ids(*separator), root_ids[root]])
            position = len(sequence) - len(root_ids[root]) + anchor
            ((entropy, nll),) = slow([sequence], [np.array([position])], [0])
            expected.append((root, chunk, anchor, float(entropy[0]), float(nll[0])))
        assert sorted(found.rows()) == sorted(expected)
        assert len(scorer.sequences) == len({(root, chunk) for root, chunk, _ in rows})
        assert per_pair_cost(pairs_of(*rows), root_ids, chunk_ids, joint) == {
            "per_pair_forwards": len(slow.sequences),
            "per_pair_tokens": sum(len(sequence) + 1 for sequence in slow.sequences),  # with BOS
        }


MAPS = pl.DataFrame(
    {
        "doc_id": ["r", "s", "t"],
        "token_ids": [[1, 2, 3], [7], [8, 9]],
        "entropy_nats": [[0.5, 4.0, 2.0], [1.0], [3.0, 3.0]],
        "nll_nats": [[0.1, 8.0, 1.0], [0.25], [3.0, 3.0]],
        "anchors": [[1, 2], [0], []],
    },
    schema={
        "doc_id": pl.String,
        "token_ids": pl.List(pl.Int32),
        "entropy_nats": pl.List(pl.Float32),
        "nll_nats": pl.List(pl.Float32),
        "anchors": pl.List(pl.Int32),
    },
)


def candidates(*rows: tuple[str, int, str]) -> pl.DataFrame:
    """`candidate_contexts` of (root, anchor, chunk's text)."""
    columns = [
        {
            "doc_id": doc_id,
            "anchor": anchor,
            "query_text": "q",
            "chunk_id": f"id of {chunk}",
            "chunk_shard": "a",
            "chunk_hash": chunk,
            "rank": 0,
            "similarity": 0.5,
            "is_control": False,
        }
        for doc_id, anchor, chunk in rows
    ]
    return pl.DataFrame(columns, schema=polars_schema("candidate_contexts"))


def scored(pairs: pl.DataFrame, entropy_after: float, nll_after: float) -> pl.DataFrame:
    after = dict(zip(AFTER, (entropy_after, nll_after), strict=True))
    return with_reductions(pairs.with_columns(pl.lit(v, pl.Float32).alias(name) for name, v in after.items()))


class TestScores:
    def test_before_is_read_from_the_map_at_the_anchor(self) -> None:
        pairs = pairs_with_before(candidates(("s", 0, "h"), ("r", 2, "h"), ("r", 1, "h")), MAPS)
        columns = ["doc_id", "anchor", "entropy_before_nats", "nll_before_nats", "root_hash"]
        assert pairs.select(columns).rows() == [
            ("s", 0, 1.0, 0.25, root_hash([7])),
            ("r", 2, 2.0, 1.0, root_hash([1, 2, 3])),
            ("r", 1, 4.0, 8.0, root_hash([1, 2, 3])),
        ]

    @pytest.mark.parametrize("maps", [MAPS, MAPS.clear(), MAPS.filter(pl.col("doc_id") == "t")])
    def test_without_candidates_there_are_no_pairs(self, maps: pl.DataFrame) -> None:
        pairs = pairs_with_before(candidates(), maps)
        table = scored(pairs, 0, 0)
        assert table.equals(pl.DataFrame(schema=polars_schema("context_scores")))

    @pytest.mark.parametrize(
        ("before", "after", "reduction"),
        [(4.0, 1.0, 0.75), (4.0, 4.0, 0.0), (4.0, 5.0, -0.25), (2.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.5, 0.0)],
    )
    def test_a_reduction_is_a_share_of_what_was_there(self, before: float, after: float, reduction: float) -> None:
        maps = MAPS.with_columns(
            entropy_nats=pl.lit([before] * 3, pl.List(pl.Float32)), nll_nats=pl.lit([1.0] * 3, pl.List(pl.Float32))
        )
        table = scored(pairs_with_before(candidates(("r", 1, "h")), maps), after, 0.5)
        assert table.schema == polars_schema("context_scores")
        assert table["reduction"].to_list() == [reduction]
        assert table["nll_reduction"].to_list() == [0.5]


class TestReuse:
    PAIRS = pairs_with_before(candidates(("r", 1, "h1"), ("r", 2, "h1"), ("r", 1, "h2"), ("s", 0, "h1")), MAPS)

    def keys(self, pairs: pl.DataFrame) -> list[tuple[str, int, str]]:
        return pairs.select("doc_id", "anchor", "chunk_hash").rows()

    def test_without_an_earlier_table_all_pairs_are_new(self) -> None:
        for earlier in (None, pl.DataFrame(schema=polars_schema("context_scores"))):
            known, new = split_known(self.PAIRS, earlier)
            assert known.height == 0
            assert new.equals(self.PAIRS)

    def test_known_pairs_keep_their_scores_and_new_ones_remain(self) -> None:
        earlier = scored(
            pairs_with_before(candidates(("r", 1, "h1"), ("s", 0, "h1"), ("s", 0, "gone")), MAPS), 0.5, 0.125
        )
        known, new = split_known(self.PAIRS, earlier)
        assert self.keys(known) == [("r", 1, "h1"), ("s", 0, "h1")]
        assert known.select(AFTER).rows() == [(0.5, 0.125)] * 2
        assert self.keys(new) == [("r", 2, "h1"), ("r", 1, "h2")]

    def test_another_root_text_under_the_same_id_is_not_known(self) -> None:
        earlier = scored(self.PAIRS, 0.5, 0.125)
        changed = MAPS.with_columns(token_ids=pl.lit([1, 2, 4], pl.List(pl.Int32)))
        known, new = split_known(pairs_with_before(candidates(("r", 1, "h1")), changed), earlier)
        assert (known.height, new.height) == (0, 1)

    def test_a_renamed_chunk_with_the_same_text_is_known(self) -> None:
        earlier = scored(self.PAIRS, 0.5, 0.125).with_columns(chunk_id=pl.lit("old name"))
        known, new = split_known(self.PAIRS, earlier)
        assert (known.height, new.height) == (4, 0)
        assert known["chunk_id"].to_list() == self.PAIRS["chunk_id"].to_list()

    def test_a_refreshed_table_equals_one_made_at_once(self) -> None:
        def score_all(pairs: pl.DataFrame) -> pl.DataFrame:
            roots = {doc_id: ids(*tokens) for doc_id, tokens in MAPS.select("doc_id", "token_ids").iter_rows()}
            after = score_units(plan_units(pairs), roots, CHUNKS, JOINT, SumScorer())
            return pairs.join(after, on=["doc_id", "chunk_hash", "anchor"])

        at_once = with_reductions(score_all(self.PAIRS))
        known, new = split_known(self.PAIRS, at_once.filter(pl.col("chunk_hash") == "h1"))
        assert new.height == 1
        refreshed = with_reductions(pl.concat([known, score_all(new)]))
        assert sorted(refreshed.rows()) == sorted(at_once.rows())
