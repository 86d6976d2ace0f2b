"""SIGINT, SIGTERM and SIGHUP, told in one line at any time: while modules are imported, in a run, between runs.

The exit status is 128 and the signal's number, as a shell reports it. SIGHUP, which a terminal sends when it closes, is
left alone if it is ignored, as under `nohup`. Dagster knows nothing of it, so while it executes a run SIGHUP is passed
on as SIGINT.

Dagster replaces the handlers while it executes a run and forgets a signal that comes between the last step and the
run's end. A signal is therefore also read from the pipe that Python writes each of them to, whoever handles it. One
that comes in a destructor or a callback of the garbage collector, where Python only prints exceptions, is sent again.
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
    """Watches for signals while a command runs; the handlers of before are put back at its end."""

    def __init__(self) -> None:
        self.stops_at_once = True  # as long as nothing is under way that has an end of its own
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
            if logging.lastResort:  # libraries log the exception on its way
                logging.lastResort.addFilter(self._is_wanted)
            self._hook_before, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._told:  # else the process is about to end, and a further signal changes nothing
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
            # Raised in the middle of an import, it would come out as that module's own error.
            with contextlib.suppress(OSError):
                os.write(2, f"{LINE}\n".encode())
            os._exit(128 + number)
        if number == signal.SIGHUP and signal.getsignal(signal.SIGINT) != self._handle:
            signal.raise_signal(signal.SIGINT)  # Dagster's handler, which waits for what must not be cut short
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
        """True once a signal came, even if its exception was caught by somebody else."""
        if self._before and not self._first:
            with contextlib.suppress(BlockingIOError):
                self._first = next((number for number in os.read(self._read, 1024) if number in SIGNALS), 0)
        return bool(self._first)

    def raise_if_came(self) -> None:
        """Raise Interrupted if a signal came that nobody told of."""
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
