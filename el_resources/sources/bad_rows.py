"""Limit on the bad rows of a file: a file with too many of them is refused as a whole.

A row is bad if its line or fields cannot be read; it stays in the table as a row that is set aside. A file is refused
if it has no good row, or more than max(1, max_share * rows) bad ones: then it is of another kind, or broken. Rows that
are set aside for their content (an empty text, a missing role) count as good here.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from el_resources.sources.contracts import CorruptShardError

BAD_ROW_REASONS = frozenset(
    {"not_utf8", "not_json", "not_an_object", "no_text", "text_not_text", "line_too_long", "text_too_long"}
)
ROWS_SHOWN = 3
HOPELESS_ROWS = 10_000  # bad rows without a good one, after which reading stops


class SetAsideRow(Protocol):
    """A document or a sample."""

    @property
    def set_aside_reason(self) -> str | None: ...

    @property
    def detail(self) -> str: ...


Row = TypeVar("Row", bound=SetAsideRow)


def most_bad_rows(n_rows: int, max_share: float) -> int:
    """Return the number of a file's rows that may be bad, at least one."""
    return max(1, int(max_share * n_rows))


def within_share(
    rows: Iterable[Row], *, max_share: float, shard: str, path: str, reasons: frozenset[str] = BAD_ROW_REASONS
) -> Iterator[Row]:
    """Yield the rows in their order, in bounded memory.

    Args:
        max_share: largest share of bad rows; one bad row is always allowed.
        reasons: the reasons that make a row bad.

    Raises:
        CorruptShardError: too many rows were bad; raised after the last row, with their number and the first ones.
    """
    n_rows, n_bad, first = 0, 0, list[str]()
    for row in rows:
        n_rows += 1
        if row.set_aside_reason in reasons:
            n_bad += 1
            if len(first) < ROWS_SHOWN:
                first.append(f"{row.detail or row.set_aside_reason}")
            if n_bad == n_rows == HOPELESS_ROWS:
                break
        yield row
    shown = "; ".join(first) + ("; …" if n_bad > ROWS_SHOWN else "")
    if n_bad and n_bad == n_rows:
        raise CorruptShardError(shard, path, f"none of the {n_rows:,} rows that were read is good: {shown}")
    if n_bad > (most := most_bad_rows(n_rows, max_share)):
        bound = f"EL_BAD_ROWS_MAX_SHARE={max_share:g} allows {most:,}"
        count = f"{n_bad:,} of its {n_rows:,} rows cannot be read ({n_bad / n_rows:.2%}; {bound})"
        raise CorruptShardError(shard, path, f"{count}: {shown}; repair them, or raise EL_BAD_ROWS_MAX_SHARE")
