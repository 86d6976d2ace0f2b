"""The keep rule, what chance passes, and the cap on uses, against slow loops and numbers to check by hand."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_assets.entropylong.checks import kept_reductions_exceed_epsilon
from el_assets.entropylong.selection import (
    KeepRule,
    PassRates,
    judge,
    keep_contexts,
    over_shards,
    pass_rates,
)
from el_assets.tables.schemas import polars_schema
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp

BY_EPSILON = KeepRule(epsilon=0.4, criterion="entropy", beats_controls=False)
BEATS = KeepRule(epsilon=0.4, criterion="entropy", beats_controls=True)


def score(
    root: str,
    anchor: int,
    chunk: str,
    reduction: float,
    *,
    control: bool = False,
    nll: float = 0.0,
    text: str | None = None,
) -> dict[str, Any]:
    """A row of `context_scores`, as far as selection reads it."""
    return {
        "doc_id": root,
        "anchor": anchor,
        "chunk_id": chunk,
        "chunk_shard": "shard",
        "chunk_hash": text or f"hash of {chunk}",
        "similarity": None if control else 0.5,
        "is_control": control,
        "reduction": reduction,
        "nll_reduction": nll,
    }


def control(root: str, anchor: int, chunk: str, reduction: float, **more: Any) -> dict[str, Any]:
    return score(root, anchor, chunk, reduction, control=True, **more)


def scores(*rows: dict[str, Any]) -> pl.DataFrame:
    schema = polars_schema("context_scores")
    return pl.DataFrame(list(rows), schema={name: schema[name] for name in score("", 0, "", 0.0)})


def passing(table: pl.DataFrame, rule: KeepRule) -> dict[str, bool]:
    return dict(judge(table, rule).select("chunk_id", "passes").iter_rows())


class TestJudging:
    def test_a_reduction_must_exceed_epsilon(self) -> None:
        table = scores(score("r", 1, "below", 0.39), score("r", 1, "equal", 0.4), score("r", 1, "above", 0.41))
        assert passing(table, BY_EPSILON) == {"below": False, "equal": False, "above": True}

    @pytest.mark.parametrize(("criterion", "kept"), [("entropy", "ac"), ("nll", "bc"), ("both", "c")])
    def test_the_criterion_says_what_must_fall(self, criterion: str, kept: str) -> None:
        table = scores(
            score("r", 1, "a", 0.9, nll=0.1), score("r", 1, "b", 0.1, nll=0.9), score("r", 1, "c", 0.5, nll=0.6)
        )
        found = passing(table, KeepRule(epsilon=0.4, criterion=criterion, beats_controls=False))
        assert [chunk for chunk, passes in found.items() if passes] == list(kept)

    def test_controls_of_the_same_anchor_must_be_beaten(self) -> None:
        table = scores(
            score("r", 1, "equals the best control", 0.6),
            score("r", 1, "beats all", 0.7),
            control("r", 1, "control 1", 0.6),
            control("r", 1, "control 2", 0.5),
            score("r", 2, "no control here", 0.5),
            control("s", 2, "control of another root", 0.9),
        )
        found = passing(table, BEATS)
        assert [chunk for chunk, passes in found.items() if passes] == [
            "beats all",
            "control 1",
            "no control here",
            "control of another root",
        ]

    def test_a_control_is_tried_against_the_others(self) -> None:
        """Against all of them, itself included, none could pass and the FDR would be zero by construction."""
        table = scores(*(control("r", 1, f"control {n}", value) for n, value in enumerate([0.5, 0.8, 0.1, 0.7])))
        found = judge(table, BEATS).select("chunk_id", "rival", "passes")
        assert found.rows() == [
            ("control 0", pytest.approx(0.8), False),
            ("control 1", pytest.approx(0.7), True),
            ("control 2", pytest.approx(0.8), False),
            ("control 3", pytest.approx(0.8), False),
        ]

    def test_of_two_equal_best_controls_neither_passes(self) -> None:
        assert passing(scores(control("r", 1, "a", 0.8), control("r", 1, "b", 0.8)), BEATS) == {"a": False, "b": False}

    def test_a_single_control_has_no_rival_and_is_one(self) -> None:
        table = scores(control("r", 1, "only", 0.8), score("r", 1, "weaker", 0.7), score("r", 1, "stronger", 0.9))
        assert passing(table, BEATS) == {"only": True, "weaker": False, "stronger": True}
        assert judge(table, BEATS)["rival"].to_list() == [None, pytest.approx(0.8), pytest.approx(0.8)]

    def test_under_both_the_smaller_fall_is_compared(self) -> None:
        table = scores(score("r", 1, "a", 0.9, nll=0.5), control("r", 1, "c", 0.6, nll=0.6))
        assert not passing(table, KeepRule(epsilon=0.4, criterion="both", beats_controls=True))["a"]

    def test_no_scores_are_no_error(self) -> None:
        for rule in (BY_EPSILON, BEATS):
            judged = judge(scores(), rule)
            assert (judged.height, judged.schema["passes"]) == (0, pl.Boolean)
            assert keep_contexts(judged, max_uses=3)[0].equals(pl.DataFrame(schema=polars_schema("verified_pairs")))

    @given(
        rows=st.lists(
            st.tuples(st.sampled_from("rs"), st.integers(0, 1), st.booleans(), st.integers(0, 6), st.integers(0, 6)),
            max_size=20,
        ),
        criterion=st.sampled_from(["entropy", "nll", "both"]),
        beats=st.booleans(),
    )
    @settings(max_examples=100, deadline=None)
    def test_equals_one_pair_at_a_time(
        self, rows: list[tuple[str, int, bool, int, int]], criterion: str, beats: bool
    ) -> None:
        # Eighths are exact in any float type, and ties are frequent.
        pairs = [
            score(root, anchor, f"chunk {n}", entropy / 8, control=is_control, nll=nll / 8)
            for n, (root, anchor, is_control, entropy, nll) in enumerate(rows)
        ]
        rule = KeepRule(epsilon=0.25, criterion=criterion, beats_controls=beats)
        expected = {pair["chunk_id"]: passes_slowly(pair, pairs, rule) for pair in pairs}
        assert passing(scores(*pairs), rule) == expected
        rates = pass_rates(judge(scores(*pairs), rule), seed=0)
        counted = [(pair["is_control"], expected[pair["chunk_id"]]) for pair in pairs]
        assert rates.n_retrieved == sum(not is_control for is_control, _ in counted)
        assert rates.n_retrieved_passing == counted.count((False, True))
        assert rates.n_controls == sum(is_control for is_control, _ in counted)
        assert rates.n_controls_passing == counted.count((True, True))


def passes_slowly(pair: dict[str, Any], pairs: list[dict[str, Any]], rule: KeepRule) -> bool:
    """The rule for one pair, in words: above epsilon, and above every other control at its anchor."""

    def value(one: dict[str, Any]) -> float:
        falls = {"entropy": one["reduction"], "nll": one["nll_reduction"]}
        return min(falls.values()) if rule.criterion == "both" else falls[rule.criterion]

    if value(pair) <= rule.epsilon:
        return False
    rivals = [
        other
        for other in pairs
        if other["is_control"]
        and other is not pair
        and (other["doc_id"], other["anchor"]) == (pair["doc_id"], pair["anchor"])
    ]
    return not rule.beats_controls or all(value(pair) > value(rival) for rival in rivals)


class TestPassRates:
    def test_the_fdr_is_the_null_rate_over_the_retrieved_rate(self) -> None:
        rates = PassRates(
            n_retrieved=200, n_retrieved_passing=10, n_controls=100, n_controls_passing=2, fdr_interval=(0.1, 0.9)
        )
        assert rates.facts() == {
            "retrieved_pass_rate": 0.05,
            "null_pass_rate": 0.02,
            "estimated_fdr": pytest.approx(0.4),
            "estimated_fdr_interval": [0.1, 0.9],
        }

    @pytest.mark.parametrize(
        ("rows", "retrieved", "null"),
        [
            ([], None, None),
            ([score("r", 1, "a", 0.9)], 1.0, None),
            ([control("r", 1, "a", 0.9)], None, 1.0),
            ([score("r", 1, "a", 0.1), control("r", 1, "b", 0.1)], 0.0, 0.0),
        ],
        ids=["no pairs", "no controls", "no candidates", "nothing passes"],
    )
    def test_what_cannot_be_estimated_is_none(
        self, rows: list[dict[str, Any]], retrieved: float | None, null: float | None
    ) -> None:
        rates = pass_rates(judge(scores(*rows), BY_EPSILON), seed=0)
        assert (rates.retrieved, rates.null) == (retrieved, null)
        assert (rates.fdr, rates.fdr_interval) == (None, None)

    def test_a_single_root_gives_an_fdr_but_no_interval(self) -> None:
        rates = pass_rates(judge(scores(score("r", 1, "a", 0.9), control("r", 1, "b", 0.9)), BY_EPSILON), seed=0)
        assert (rates.fdr, rates.fdr_interval) == (1.0, None)

    def test_the_interval_holds_the_estimate_and_narrows_with_roots(self) -> None:
        few, many = roots(20), roots(320)
        assert few.fdr == pytest.approx(many.fdr) == pytest.approx(0.5)
        assert few.fdr_interval and many.fdr_interval
        for low, high in (few.fdr_interval, many.fdr_interval):
            assert 0 < low < 0.5 < high
        # 16 times the roots, a quarter of the width.
        shrinking = (few.fdr_interval[1] - few.fdr_interval[0]) / (many.fdr_interval[1] - many.fdr_interval[0])
        assert 3 < shrinking < 6

    def test_roots_are_resampled_not_pairs(self) -> None:
        """Ten equal pairs of a root say no more than one of them."""
        once, tenfold = roots(40), roots(40, copies=10)
        assert once.fdr_interval == pytest.approx(tenfold.fdr_interval)

    def test_roots_that_agree_leave_no_width(self) -> None:
        rows = [
            row
            for n in range(5)
            for row in (score(f"r{n}", 1, "a", 0.9), control(f"r{n}", 1, "b", 0.9), control(f"r{n}", 1, "c", 0))
        ]
        assert pass_rates(judge(scores(*rows), BY_EPSILON), seed=0).fdr_interval == (0.5, 0.5)

    def test_the_seed_decides_the_interval(self) -> None:
        assert roots(20).fdr_interval == roots(20).fdr_interval != roots(20, seed=1).fdr_interval

    def test_roots_of_two_shards_with_one_id_are_two(self) -> None:
        """Files often number their documents from 0, and a control of one must not rival a candidate of the other."""
        one = scores(score("0", 1, "a", 0.5)).with_columns(shard=pl.lit("x"))
        other = scores(control("0", 1, "b", 0.9)).with_columns(shard=pl.lit("y"))
        joined = over_shards(pl.concat([one, other]).lazy())
        assert joined["doc_id"].n_unique() == 2
        assert passing(joined, BEATS) == {"a": True, "b": True}


def roots(count: int, *, copies: int = 1, seed: int = 0) -> PassRates:
    """Every root has a passing candidate and every second one a passing control, so the FDR is 0.5."""
    rows = [
        row
        for n in range(count)
        for copy in range(copies)
        for row in (score(f"r{n:03}", 1, f"a{copy}", 0.9), control(f"r{n:03}", 1, f"b{copy}", 0.9 if n % 2 else 0.0))
    ]
    return pass_rates(judge(scores(*rows), BY_EPSILON), seed=seed)


def kept(table: pl.DataFrame, max_uses: int = 0) -> list[tuple[Any, ...]]:
    pairs, _ = keep_contexts(judge(table, BY_EPSILON), max_uses=max_uses)
    assert pairs.schema == polars_schema("verified_pairs")
    return pairs.select("doc_id", "chunk_id", "anchors", "best_reduction").rows()


class TestKeeping:
    def test_a_context_is_kept_once_per_root_with_the_anchors_that_it_verifies(self) -> None:
        table = scores(
            score("r", 9, "a", 0.5, nll=0.1),
            score("r", 2, "a", 0.75, nll=0.2),
            score("r", 5, "a", 0.25),
            score("s", 1, "a", 0.5),
            control("r", 2, "control", 0.9),
        )
        pairs, dropped = keep_contexts(judge(table, BY_EPSILON), max_uses=0)
        assert dropped == 0
        assert pairs.select("doc_id", "chunk_id", "anchors", "reductions", "best_reduction").rows() == [
            ("r", "a", [2, 9], [0.75, 0.5], 0.75),
            ("s", "a", [1], [0.5], 0.5),
        ]
        assert pairs["nll_reductions"].to_list()[0] == pytest.approx([0.2, 0.1])
        assert pairs["similarities"].to_list()[0] == [0.5, 0.5]

    def test_equal_texts_are_one_context(self) -> None:
        table = scores(
            score("r", 7, "a", 0.5, text="same"),
            score("r", 3, "b", 0.75, text="same"),
            score("r", 7, "c", 0.625, text="other"),
        )
        assert kept(table) == [("r", "b", [3, 7], 0.75), ("r", "c", [7], 0.625)]

    def test_a_chunk_is_kept_for_the_roots_that_it_serves_best(self) -> None:
        table = scores(
            score("r", 1, "hub", 0.5),
            score("s", 1, "hub", 0.875),
            score("t", 1, "hub under another id", 0.75, text="hash of hub"),
            score("r", 1, "rare", 0.5),
        )
        assert [row[:2] for row in kept(table, max_uses=2)] == [
            ("r", "rare"),
            ("s", "hub"),
            ("t", "hub under another id"),
        ]
        assert keep_contexts(judge(table, BY_EPSILON), max_uses=2)[1] == 1
        assert [row[:2] for row in kept(table, max_uses=1)] == [("r", "rare"), ("s", "hub")]
        assert len(kept(table, max_uses=0)) == 4

    def test_of_equals_the_cap_keeps_the_first_roots(self) -> None:
        table = scores(*(score(root, 1, "hub", 0.5) for root in "tsr"))
        assert [root for root, *_ in kept(table, max_uses=2)] == ["r", "s"]

    @given(
        rows=st.lists(
            st.tuples(st.sampled_from("rst"), st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 8)),
            unique_by=lambda row: row[:3],
        ),
        cap=st.integers(0, 2),
        data=st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_the_order_of_scores_does_not_matter(
        self, rows: list[tuple[str, int, str, int]], cap: int, data: st.DataObject
    ) -> None:
        def table(ordered: list[tuple[str, int, str, int]]) -> pl.DataFrame:
            return scores(*(score(root, anchor, chunk, fall / 8) for root, anchor, chunk, fall in ordered))

        assert kept(table(rows), cap) == kept(table(data.draw(st.permutations(rows))), cap)
        uses = [chunk for _, chunk, *_ in kept(table(rows), cap)]
        assert not cap or all(uses.count(chunk) <= cap for chunk in uses)


@pytest.mark.parametrize(("criterion", "found"), [("entropy", ["low"]), ("nll", ["nll"]), ("both", ["low", "nll"])])
def test_the_check_finds_a_kept_context_that_its_criterion_would_not_keep(
    tmp_path: Path, criterion: str, found: list[str]
) -> None:
    falls = {"fine": ([0.5, 0.9], [0.6, 0.5]), "low": ([0.9, 0.4], [0.9, 0.9]), "nll": ([0.9, 0.9], [0.1, 0.9])}
    rows = [
        {"doc_id": "d", "chunk_id": chunk, "chunk_hash": chunk, "anchors": [1, 2], "reductions": h, "nll_reductions": n}
        for chunk, (h, n) in falls.items()
    ]
    tables, schema = ShardTables(str(tmp_path)), polars_schema("verified_pairs")
    stamp = Stamp(asset="verified_pairs", partition="a", recipe="r", settings={"epsilon": 0.4, "criterion": criterion})
    tables.write(pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema), stamp)
    assert kept_reductions_exceed_epsilon(tables, "a") == [
        f"root 'd', chunk {chunk!r} falls by too little, epsilon or less" for chunk in found
    ]
