"""What scoring cost: forwards, tokens and seconds of an engine between two moments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from el_resources.scoring.engine import ScoringEngine


class Meter:
    """Counts from its construction on."""

    def __init__(self, engine: "ScoringEngine") -> None:
        self.engine = engine
        self.before = self._now()

    def _now(self) -> tuple[int, int, float]:
        return self.engine.forwards, self.engine.tokens, self.engine.seconds

    def facts(self) -> dict[str, object]:
        """For a stamp: `forwards`, `tokens`, `scoring_seconds`, `tokens_per_second`."""
        return Meter.total([self])

    @staticmethod
    def total(meters: Sequence["Meter"]) -> dict[str, object]:
        """The same over several engines."""
        spent = [[now - then for now, then in zip(m._now(), m.before, strict=True)] for m in meters]
        forwards, tokens, seconds = (sum(column) for column in zip(*spent, strict=True))
        return {
            "forwards": int(forwards),
            "tokens": int(tokens),
            "scoring_seconds": round(float(seconds), 3),
            "tokens_per_second": round(tokens / seconds) if seconds else 0,
        }
