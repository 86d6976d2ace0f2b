"""What scoring costs: forwards, tokens and seconds of an engine while a step uses it."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine


class Meter:
    """Counts while it is entered, which it may be many times; meanwhile the engine is this thread's alone."""

    def __init__(self, engine: "ScoringEngine") -> None:
        self.engine = engine
        self._spent = (0, 0, 0.0)
        self._before = self._spent

    def __enter__(self) -> Self:
        self.engine.turn.acquire()
        self._before = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        forwards, tokens, seconds = (
            spent + now - then for spent, now, then in zip(self._spent, self._now(), self._before, strict=True)
        )
        self._spent = (int(forwards), int(tokens), seconds)
        self.engine.turn.release()

    def _now(self) -> tuple[int, int, float]:
        return self.engine.forwards, self.engine.tokens, self.engine.seconds

    def facts(self) -> dict[str, object]:
        """For a stamp: `forwards`, `tokens`, `scoring_seconds`, `tokens_per_second`."""
        return Meter.total([self])

    @staticmethod
    def total(meters: Sequence["Meter"]) -> dict[str, object]:
        """The same over several meters."""
        forwards, tokens, seconds = (sum(column) for column in zip(*(meter._spent for meter in meters), strict=True))
        return {
            "forwards": forwards,
            "tokens": tokens,
            "scoring_seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds) if seconds else 0,
        }
