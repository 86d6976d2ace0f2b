"""Shards under way together: their order, their errors, their costs, and the same tables as one at a time."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polars.testing import assert_frame_equal

from el_assets.tables.meter import Meter
from el_assets.tables.side_by_side import AbandonedError, Laps, in_order, stop_if_abandoned
from el_resources.models.causal_lm import CausalLM
from el_resources.models.model_files import REFERENCE_FOLDER
from el_resources.scoring import ScoringEngine
from tests.conftest import Workspace, library_documents, library_samples

PATIENCE_SECONDS = 30


def test_two_are_under_way_together_and_come_back_in_order() -> None:
    together = threading.Barrier(2)

    def work(item: int) -> int:
        together.wait(PATIENCE_SECONDS)  # broken, if a thread is alone
        time.sleep(0.02 * (item % 2 == 0))  # the first of each two is the slower one
        return 10 * item

    assert list(in_order(work, range(6), lambda _: 2)) == [0, 10, 20, 30, 40, 50]


def test_one_at_a_time_works_in_the_callers_thread() -> None:
    assert set(in_order(lambda _: threading.current_thread(), range(3), lambda _: 1)) == {threading.current_thread()}


def test_a_pool_begins_where_it_is_first_wanted() -> None:
    threads = list(in_order(lambda _: threading.current_thread(), [1, 1, 2, 1], lambda wanted: wanted))
    assert [thread is threading.current_thread() for thread in threads] == [True, True, False, False]


def test_a_slow_item_does_not_hold_up_those_behind_it() -> None:
    third_begun = threading.Event()

    def work(item: int) -> int:
        if item == 2:
            third_begun.set()
        if item == 0:
            assert third_begun.wait(PATIENCE_SECONDS)
        return item

    assert list(in_order(work, range(4), lambda _: 2)) == [0, 1, 2, 3]


def wait_to_be_abandoned(stopped: list[int], item: int) -> None:
    """Long work that reports progress."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while time.monotonic() < deadline:
            stop_if_abandoned()
            time.sleep(0.001)
    except AbandonedError:
        stopped.append(item)
        raise


def test_an_error_of_who_takes_the_results_stops_what_is_under_way() -> None:
    stopped: list[int] = []
    begun = threading.Semaphore(0)

    def work(item: int) -> int:
        if item:
            begun.release()
            wait_to_be_abandoned(stopped, item)
        return item

    with (
        pytest.raises(KeyboardInterrupt),
        closing(in_order(work, range(4), lambda _: 2)) as results,
    ):
        assert next(results) == 0
        for _ in range(2):
            assert begun.acquire(timeout=PATIENCE_SECONDS)
        raise KeyboardInterrupt
    assert sorted(stopped) == [1, 2]


def test_an_item_that_cannot_be_had_is_an_error_behind_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no such shard")

    results = in_order(lambda item: item, items(), lambda _: 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="no such shard"):
        next(results)


def test_an_error_stops_what_is_under_way_and_what_has_not_begun() -> None:
    begun: list[int] = []
    stopped: list[int] = []
    second_waits = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            assert second_waits.wait(PATIENCE_SECONDS)
            raise ValueError("the shard is bad")
        if item == 2:
            second_waits.set()
            wait_to_be_abandoned(stopped, item)
        return item

    results = in_order(work, range(5), lambda _: 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="the shard is bad"):
        next(results)
    assert stopped == [2]
    assert sorted(begun) == [0, 1, 2]
    stop_if_abandoned()  # nobody abandoned the caller


def test_behind_an_error_nothing_begins_and_before_it_all_is_made() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            failed.set()
            raise ValueError("the shard is bad")
        assert failed.wait(PATIENCE_SECONDS)
        time.sleep(0.05)  # the worker of the bad one is free long before
        return item

    results = in_order(work, range(5), lambda _: 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="the shard is bad"):
        next(results)
    assert sorted(begun) == [0, 1]


def test_an_error_of_a_later_item_does_not_stop_an_earlier_one_from_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = threading.Event()
    submit = ThreadPoolExecutor.submit

    def submit_late(pool: ThreadPoolExecutor, begin: Any, number: int, item: int) -> Any:
        def wait_first() -> int:
            if number == 0:  # its thread gets going when the other item has failed
                assert failed.wait(PATIENCE_SECONDS)
                time.sleep(0.05)
            found: int = begin(number, item)
            return found

        return submit(pool, wait_first)

    def work(item: int) -> int:
        if item == 1:
            failed.set()
            raise ValueError("the shard is bad")
        return item

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_late)
    results = in_order(work, range(2), lambda _: 2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="the shard is bad"):
        next(results)


def test_seconds_of_works_that_overlap_add_up_to_the_time_that_passed() -> None:
    laps, started = Laps(), time.monotonic()
    seconds = []
    for begun in (started, started, time.monotonic()):
        time.sleep(0.01)
        seconds.append(laps.end(begun))
    assert min(seconds) >= 0.01
    assert sum(seconds) <= time.monotonic() - started


def test_each_meter_counts_what_its_own_thread_asked_for() -> None:
    engine = ScoringEngine.from_folder(REFERENCE_FOLDER / "long", bos_id=0, dtype="float32", device="cpu")
    ready = threading.Barrier(2)

    def work(length: int) -> dict[str, object]:
        ready.wait(PATIENCE_SECONDS)
        with Meter(engine, engine) as meter:
            for _ in range(4):
                engine.score([np.arange(length), np.arange(length)])
        return meter.facts()

    found = list(in_order(work, [30, 50], lambda _: 2))
    assert [(facts["forwards"], facts["tokens"]) for facts in found] == [(8, 240), (8, 400)]
    assert engine.forwards == 16


def test_two_engines_never_score_together(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [
        ScoringEngine.from_folder(REFERENCE_FOLDER / name, bos_id=0, dtype="float32", device="cpu")
        for name in ("short", "long")
    ]
    inside: list[int] = []
    start = ScoringEngine._start

    def watched(self: ScoringEngine, *arguments: Any) -> Any:
        inside.append(1)
        time.sleep(0.01)  # long enough for the other one to come in
        found = start(self, *arguments)
        assert len(inside) == 1
        inside.pop()
        return found

    monkeypatch.setattr(ScoringEngine, "_start", watched)
    results = in_order(lambda engine: engine.score([np.arange(40)] * 4), engines, lambda _: 2)
    assert [len(scores) for scores in results] == [4, 4]


def test_tables_are_the_same_as_one_at_a_time(
    new_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {
        "roots_per_shard": 5,
        "root_tokens_min": 64,
        "root_tokens_max": 300,
        "chunk_tokens": 96,
        "alpha": 0.5,
        "max_anchors": 3,
        "candidates_per_anchor": 2,
        "hmg_form": "pair",  # two engines
    }
    asked: list[int] = []
    done = []
    for at_once in (1, 2):

        def shards_at_once(_: object, n: int = at_once) -> int:
            asked.append(n)
            return n

        monkeypatch.setattr(CausalLM, "shards_at_once", staticmethod(shards_at_once))
        workspace = new_workspace(store=str(tmp_path / f"store{at_once}"), **settings)
        for number, shard in enumerate(("a.jsonl", "b.jsonl")):
            workspace.write_shard(shard, library_documents(5, offset=5 * number))
            workspace.write_instructions(shard, library_samples(4, offset=4 * number))
        workspace.register()
        workspace.register_instructions()
        for job in ("build_index", "build_sequences", "score_samples"):
            workspace.run(job, raises=False)
        done.append(workspace)
    assert asked == [1] * 4 + [2] * 4, "every asset that scores asks"
    one, two = (workspace.tables for workspace in done)
    for asset in ("entropy_maps", "context_scores", "hmg_scores", "cam_scores"):
        for shard in ("a.jsonl", "b.jsonl"):
            assert_frame_equal(one.read(asset, shard), two.read(asset, shard), abs_tol=1e-4, rel_tol=0)
            facts = [tables.require_stamp(asset, shard).facts for tables in (one, two)]
            for name in ("forwards", "tokens", "rows"):
                assert facts[0][name] == facts[1][name], (asset, shard, name)
