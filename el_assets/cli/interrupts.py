"""Handling of SIGINT, SIGTERM and SIGHUP: the command prints one line and ends, during imports as well as in runs.

The exit status is 128 plus the signal's number, as a shell reports it. A terminal sends SIGHUP when it closes; under
`nohup` it is ignored, and stays so. Dagster does not handle SIGHUP, so while it executes a run SIGHUP is passed on as
SIGINT.

Dagster replaces the handlers while it executes a run, and loses a signal that comes between the last step and the end
of the run. Therefore signals are also read from a pipe to which Python writes each of them, whoever handles it. In a
destructor or a callback of the garbage collector Python only prints exceptions, so a signal that comes there is sent
again.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUSES = tuple(128 + number for number in SIGNALS)
SENT_AGAIN_AFTER_SECONDS = 0.1
LINE = "interrupted: tables that were written stay, and the same command makes the rest"


class Interrupted(KeyboardInterrupt):
    """One of the signals came."""


class Interrupts:
    """A context in which signals are watched; at its end the earlier handlers are restored."""

    def __init__(self) -> None:
        self.stops_at_once = True  # until something has begun that must be closed in order
        self._told = False
        self._first = 0  # the number of the signal that came first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
            self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            wanted = [number for number in SIGNALS if not _is_ignored(number)]
            self._before = {number: signal.signal(number, self._handle) for number in wanted}
            if logging.lastResort:  # libraries log the exception while it passes through them
                logging.lastResort.addFilter(self._is_wanted)
            self._hook_before, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._told:  # else the process is about to end, and further signals do not matter
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if self._before:
            sys.unraisablehook = self._hook_before
            if logging.lastResort:
                logging.lastResort.removeFilter(self._is_wanted)
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._read)
            os.close(self._write)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            os._exit(128 + (self._first or number))
        if self.stops_at_once:
            # An exception in the middle of an import would look like an error of that module.
            with contextlib.suppress(OSError):
                os.write(2, f"{LINE}\n".encode())
            os._exit(128 + number)
        if number == signal.SIGHUP and signal.getsignal(signal.SIGINT) != self._handle:
            signal.raise_signal(signal.SIGINT)  # Dagster's handler lets it finish what must not be cut short
        else:
            raise Interrupted

    def _is_wanted(self, record: logging.LogRecord) -> bool:
        return not self.came

    def _unraisable(self, lost: "sys.UnraisableHookArgs") -> None:
        if not self.came:
            self._hook_before(lost)
            return
        again = threading.Timer(SENT_AGAIN_AFTER_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    @property
    def came(self) -> bool:
        """True if a signal has come, even if other code caught its exception."""
        if self._before and not self._first:
            with contextlib.suppress(BlockingIOError):
                self._first = next((number for number in os.read(self._read, 1024) if number in SIGNALS), 0)
        return bool(self._first)

    def raise_if_came(self) -> None:
        """Raise Interrupted if a signal has come without raising an exception here."""
        if self.came:
            raise Interrupted

    def told(self) -> int:
        """Print the line, and return the exit status of an interrupted command."""
        status = 128 + (self._first if self.came else signal.SIGINT)
        self._told = True
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(LINE, file=sys.stderr, flush=True)
        return status


def _is_ignored(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
