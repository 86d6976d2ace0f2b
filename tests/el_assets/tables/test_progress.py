"""Progress as a run shows it: log lines of a real run, under a clock that the test sets."""

from collections.abc import Callable
from types import SimpleNamespace

import dagster as dg
import pytest

from el_assets.tables.progress import progress

Work = Callable[[dg.AssetExecutionContext, SimpleNamespace], None]


@pytest.fixture
def log_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], list[str]]:
    """Runs work in an asset and returns what it logged; `clock.now` is the module's time in seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("el_assets.tables.progress.time", SimpleNamespace(monotonic=lambda: clock.now))

    def run(work: Work) -> list[str]:
        @dg.asset
        def worker(context: dg.AssetExecutionContext) -> None:
            work(context, clock)

        with dg.DagsterInstance.ephemeral() as instance:
            quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            result = dg.materialize([worker], instance=instance, run_config=quiet)
            entries = instance.all_logs(result.run_id)
        return [entry.user_message for entry in entries if entry.dagster_event is None]

    return run


def test_rate_and_time_left_are_logged_every_ten_seconds(log_of: Callable[[Work], list[str]]) -> None:
    def work(context: dg.AssetExecutionContext, clock: SimpleNamespace) -> None:
        with progress(context, "verify a", 4000, "tokens") as advance:
            for clock.now in (4.0, 10.0, 15.0, 20.0):
                advance(1000)

    assert log_of(work) == ["verify a: 50 %, 200 tokens/s, 10 s left", "verify a: 100 %, 200 tokens/s, 0 s left"]


def test_nothing_to_do_and_nothing_done_are_no_error(log_of: Callable[[Work], list[str]]) -> None:
    def work(context: dg.AssetExecutionContext, clock: SimpleNamespace) -> None:
        for total, done in ((0, 0), (0, 3), (5, 0)):
            with progress(context, "split a", total, "documents") as advance:
                clock.now += 60.0
                advance(done)

    assert log_of(work) == []
