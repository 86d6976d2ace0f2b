"""Progress of long steps: a bar in a terminal, and a log line every LOG_EVERY_SECONDS with rate and time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
from tqdm import tqdm

LOG_EVERY_SECONDS = 10.0


@contextmanager
def progress(context: dg.AssetExecutionContext, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function `advance(n)`; call it with the number of units done since its last call.

    The bar appears after a second, so short work shows none.

    Args:
        what: name of the work, with the shard.
        total: units of work; 0 shows no bar.
        unit: name of the unit.
    """
    started = last_logged = time.monotonic()
    terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        unit_scale=True,
        delay=1.0,
        mininterval=0.2 if terminal else 5.0,
        disable=total == 0,
        leave=terminal,
    )
    try:

        def advance(n: int) -> None:
            nonlocal last_logged
            bar.update(n)
            now = time.monotonic()
            if now - last_logged >= LOG_EVERY_SECONDS and bar.n:
                last_logged = now
                rate = bar.n / (now - started)
                context.log.info(
                    f"{what}: {100 * bar.n / total:.0f} %, {rate:,.0f} {unit}/s, {(total - bar.n) / rate:,.0f} s left"
                )

        yield advance
    finally:
        bar.close()
