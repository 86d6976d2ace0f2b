"""The output streams of a command: warnings in one line on stderr, and an end without a word if nobody reads stdout.

The second is the case of `status | head`, in which a program usually ends by SIGPIPE.
"""

import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from el_assets.tables.failures import PACKAGES

READER_GONE = 141  # 128 + SIGPIPE, as a shell reports it


@contextmanager
def warnings_in_lines(*, as_python_does: bool) -> Iterator[None]:
    """Print warnings of this project as one line on stderr, and send those of libraries to the debug log.

    Args:
        as_python_does: print all warnings as Python does, with files and source lines (`--debug`).
    """
    if as_python_does:
        yield
        return
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: IO[str] | None = None,
        line: str | None = None,
    ) -> None:
        words = " ".join(str(message).split())
        # With `stacklevel` a library's warning may name a file of this project; what counts is the file that raised it.
        if _raised_in().startswith(PACKAGES):
            print(f"warning: {words}", file=sys.stderr, flush=True)
        else:
            logging.getLogger("py.warnings").debug("%s:%s: %s: %s", filename, lineno, category.__name__, words)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _raised_in() -> str:
    """Return the file that called `warnings.warn`, whatever file its `stacklevel` names."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_code.co_filename == warnings.__file__:
        frame = frame.f_back
    return frame.f_code.co_filename


def drop_output_if_reader_gone() -> bool:
    """Discard the rest of the output if nobody reads it; return False if stdout and stderr still have readers."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _reader_is_gone(stream)]
    for stream in gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(gone)


def _reader_is_gone(stream: IO[str]) -> bool:
    try:
        watched = select.poll()
        watched.register(stream.fileno(), 0)
    except (OSError, ValueError):  # it has no descriptor, or is closed
        return False
    return any(event & select.POLLERR for _, event in watched.poll(0))
