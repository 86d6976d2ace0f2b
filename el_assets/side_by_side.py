"""Shards side by side: while a GPU scores one, the host reads and tokenizes the next, and writes the one before.

The engine takes one caller at a time (`ScoringEngine.turn`), so two shards at once keep it busy; results come back in
order, and an error stops what is still under way at its next report of progress.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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


def in_order(work: Callable[[Item], Result], items: Sequence[Item], at_once: int) -> Iterator[Result]:
    """`work` of each item, in the order of the items, at most so many under way; a single one in the caller's thread.

    Raises:
        Exception: the first, in order, that `work` raised; later items that have not begun are not begun.
    """
    if at_once == 1:
        yield from map(work, items)
        return
    over = threading.Event()
    under_way: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(at_once, initializer=_abandoned.set, initargs=(over,))
    try:
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) == at_once:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        over.set()
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
