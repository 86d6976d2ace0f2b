"""A reader that stops reading, as in `status | head`: the command ends without a word, as by SIGPIPE."""

import os
import select
import sys
from typing import IO

READER_GONE = 141  # 128 + SIGPIPE, as a shell reports it


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
