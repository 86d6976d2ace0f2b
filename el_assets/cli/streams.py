"""The streams of a command: what Python's warnings become on stderr, and a reader that stops reading.

As in `status | head`, in which the command ends without a word, as by SIGPIPE.
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
    """Within it, a warning of this project is one line on stderr, and one of a library goes to the debug log.

    Args:
        as_python_does: leave all warnings as they are (`--debug`), with their files and source lines.
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
        # A library's warning may name a file of this project (`stacklevel`), but is not raised in it.
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
    """Send what is left of the output nowhere if nobody reads it; False if stdout and stderr have their readers."""
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
