"""The cost of scoring in a step: forwards, tokens and seconds of its engines."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine


class Meter:
    """A context that measures the forwards, tokens and seconds of engines."""

    def __init__(self, *engines: "ScoringEngine") -> None:
        self._engines = tuple(dict.fromkeys(engines))
        self._spent = self._before = (0, 0, 0.0)

    def __enter__(self) -> Self:
        self._before = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now, before = self._now(), self._before
        self._spent = (now[0] - before[0], now[1] - before[1], now[2] - before[2])

    def _now(self) -> tuple[int, int, float]:
        engines = self._engines
        return sum(e.forwards for e in engines), sum(e.tokens for e in engines), sum(e.seconds for e in engines)

    def facts(self) -> dict[str, object]:
        """Return facts for a stamp: `forwards`, `tokens`, `scoring_seconds`, `tokens_per_second`."""
        forwards, tokens, seconds = self._spent
        return {
            "forwards": forwards,
            "tokens": tokens,
            "scoring_seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds) if seconds else 0,
        }
