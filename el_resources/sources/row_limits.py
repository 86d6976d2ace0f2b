"""Limits on the length of a row, so that one row takes bounded memory in every file.

A line that is too long is skipped piece by piece and never loaded as a whole. A compressed file of 2 MB may contain a
line of 2 GB: reading it takes the time of its decompression and the memory of one line within the limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import IO

MIB = 1 << 20
PIECE_BYTES = 1 << 20
# Length of a line, in limits, after which the file is given up, since it does not consist of lines.
ENDLESS_LINES = 64


@dataclass(frozen=True, kw_only=True)
class RowLimits:
    """The longest row that is read.

    Attributes:
        line_bytes: limit for a line of JSON lines, decompressed, and for a text in Parquet.
        text_chars: limit for a document's text, and for all texts of a sample together.
    """

    line_bytes: int = 64 * MIB
    text_chars: int = 50_000_000

    @classmethod
    def of(cls, *, line_mib_max: int, document_chars_max: int) -> "RowLimits":
        """Return the limits from the settings of the same names."""
        return cls(line_bytes=line_mib_max * MIB, text_chars=document_chars_max)

    def fingerprint(self) -> tuple[object, ...]:
        """Return the limits' part of a shard's fingerprint; it is empty for the defaults."""
        return () if self == RowLimits() else (self.line_bytes, self.text_chars)

    def line_too_long(self, place: str, n_bytes: int) -> str:
        """Return the words for a line or cell that is too long."""
        return f"{place} has {n_bytes:,} bytes, more than EL_LINE_MIB_MAX={self.line_bytes // MIB} allows"

    def text_too_long(self, place: str, n_chars: int) -> str:
        """Return the error message for a text that is too long."""
        return f"{place} has {n_chars:,} characters, more than EL_DOCUMENT_CHARS_MAX={self.text_chars} allows"


class EndlessLineError(ValueError):
    """A line is so long that the file cannot consist of lines."""


def bounded_lines(text: IO[bytes] | BufferedReader, limits: RowLimits) -> Iterator[tuple[int, bytes | int]]:
    """Yield the number of every line, from 1, with its bytes, or with its length if that exceeds the limit.

    Raises:
        EndlessLineError: a line has more than ENDLESS_LINES times the limit.
    """
    number = 0
    while line := text.readline(limits.line_bytes + 1):
        number += 1
        n_bytes = len(line)
        if n_bytes <= limits.line_bytes:
            yield number, line
            continue
        ended = line.endswith(b"\n")
        del line
        while not ended and (piece := text.readline(PIECE_BYTES)):
            n_bytes, ended = n_bytes + len(piece), piece.endswith(b"\n")
            if n_bytes > ENDLESS_LINES * limits.line_bytes:
                most = f"{ENDLESS_LINES * limits.line_bytes / 2**30:g} GiB"
                raise EndlessLineError(f"line {number} has no end within {most}: it is not JSON lines")
        yield number, n_bytes
