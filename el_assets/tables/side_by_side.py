"""Shards side by side: while a GPU scores one, the host reads and tokenizes the next, and writes the one before.

Engines take one caller at a time (`ScoringEngine.turn`); two shards at once hide much of the host's work, which was 8 %
of the time of 1B entropy maps on a local disk (benchmarks/results/scoring.md, "Whole shards"). Results come back
in order. An error, in a shard or in who takes the results, stops what is still under way at its next report of
progress.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_abandoned: ContextVar[threading.Event | None] = ContextVar("_abandoned", default=None)


class AbandonedError(Exception):
    """The run has ended; what this thread was making is not wanted any more."""


def stop_if_abandoned() -> None:
    """To be called now and then by long work. Raises AbandonedError once nobody waits for it."""
    event = _abandoned.get()
    if event is not None and event.is_set():
        raise AbandonedError


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], at_once: Callable[[Item], int]
) -> Generator[Result, None, None]:
    """`work` of each item, in the order of the items; close it, so that nothing goes on when nobody takes the results.

    Args:
        items: taken when their work may begin, and one ahead where threads work, so that none waits for a slower one
            before it. An error of theirs is raised behind the results before it.
        at_once: how many may be under way together, asked for each item; the most so far counts. At 1 the caller's
            thread works.

    Raises:
        Exception: the first, in order, that `work` raised; items that have not begun are not begun.
    """
    over = threading.Event()
    first_failed = math.inf
    under_way: deque[Future[Result]] = deque()
    pool: ThreadPoolExecutor | None = None
    limit, left = 1, enumerate(items)

    def begin(number: int, item: Item) -> Result:
        nonlocal first_failed
        if first_failed < number:  # that one's error is raised before this result is looked at
            raise AbandonedError
        try:
            return work(item)
        except BaseException:
            first_failed = min(first_failed, number)
            raise

    try:
        while True:
            try:
                number, item = next(left)
            except StopIteration:
                break
            except Exception:
                yield from (future.result() for future in under_way)
                raise
            limit = max(limit, at_once(item))
            if limit == 1:
                yield work(item)
                continue
            pool = pool or ThreadPoolExecutor(limit, initializer=_abandoned.set, initargs=(over,))
            under_way.append(pool.submit(begin, number, item))
            if len(under_way) > limit:
                yield under_way.popleft().result()
        yield from (future.result() for future in under_way)
    finally:
        over.set()
        if pool is not None:
            pool.shutdown(cancel_futures=True)


class Laps:
    """Seconds of works that overlap, so that their sum is the time that passed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0.0

    def end(self, started: float) -> float:
        """Seconds since the work's start (`time.monotonic`), or since the last end where that is later."""
        with self._lock:
            now = time.monotonic()
            seconds, self._last = now - max(started, self._last), now
            return seconds
