"""The message of a command that failed: the outermost error of this project, and the place of the whole trace.

Errors that this project raises name the problem, the value and the remedy. Errors of libraries say less, and come after
pages of trace. Nothing is lost: the trace is in a file of the Dagster home (FOLDER) and on the run's page in the UI,
and `--debug` prints it.
"""

import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from el_resources.addresses import without_secrets

if TYPE_CHECKING:
    from dagster._utils.error import SerializableErrorInfo

FOLDER = Path(".dagster", "failures")
# Traces are needed for recent failures only; those of runs are also in Dagster's database.
TRACES_KEPT = 50
# Names of trace files; no other file is ever deleted.
TRACE_NAME = re.compile(r"(run-[0-9a-f-]{36}|[a-z]+-\d{8}-\d{6}-\d+)\.txt")
PACKAGES = tuple(f"{Path(__file__).parents[2] / name}{os.sep}" for name in ("el_assets", "el_resources"))
# Prefix of the note on an error that names the shard.
OF_SHARD = "shard: "
KIND = re.compile(r"[\w.]+(?=: |$)")
FRAME = re.compile(r'\s*File "(?P<file>.*)", line (?P<line>\d+)')


@dataclass(frozen=True)
class Told:
    """An error in words.

    Attributes:
        words: the message; for an unforeseen error also its class and its place in the code.
        shard: the shard that was being made; empty if none was.
        is_foreseen: true if this project raised it.
    """

    words: str
    shard: str = ""
    is_foreseen: bool = True

    @property
    def with_shard(self) -> str:
        """The message, with the shard if the message does not name it."""
        return (
            f"{self.words} (shard {self.shard!r})" if self.shard and repr(self.shard) not in self.words else self.words
        )

    def of_step(self, step: str) -> str:
        """Return a line that names the step and the shard, and gives the message."""
        where = f"{step} of {self.shard!r}" if self.shard and repr(self.shard) not in self.words else step
        return f"{where}: {self.words}"


@dataclass(frozen=True)
class _Link:
    """An error of a chain: class, message and notes, and the last frame of its trace, as Python prints it."""

    text: str
    frame: str

    @property
    def is_ours(self) -> bool:
        found = FRAME.match(self.frame)
        return bool(found and found["file"].startswith(PACKAGES) and re.search(r"^\s+raise\b", self.frame, re.M))

    @property
    def message(self) -> str:
        """The message without class and notes."""
        text = KIND.sub("", self.text, count=1).removeprefix(": ")
        return "\n".join(line for line in text.splitlines() if not line.startswith(OF_SHARD)).strip()

    @property
    def kind(self) -> str:
        found = KIND.match(self.text)
        return found[0].rpartition(".")[2] if found else "error"


@contextmanager
def shard_named(shard: str) -> Iterator[None]:
    """Add a note that names the shard to any error raised within this context."""
    try:
        yield
    except Exception as error:
        if not any(note.startswith(OF_SHARD) for note in getattr(error, "__notes__", ())):
            error.add_note(f"{OF_SHARD}{shard}")
        raise


def told_of_step(error: "SerializableErrorInfo | None") -> Told:
    """Return the message of an error that Dagster recorded."""
    chain = []
    while error is not None:
        chain.append(_Link(error.message, error.stack[-1] if error.stack else ""))
        error = error.cause or error.context
    return _told(chain)


def told_of(error: BaseException) -> Told:
    """Return the message of an exception."""
    chain, found = [], traceback.TracebackException.from_exception(error) or None
    while found is not None:
        frames = found.stack.format()
        chain.append(_Link("".join(found.format_exception_only()), frames[-1] if frames else ""))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return _told(chain)


def _told(chain: list[_Link]) -> Told:
    notes = (line for link in chain for line in link.text.splitlines() if line.startswith(OF_SHARD))
    shard = next(notes, "").removeprefix(OF_SHARD)
    if ours := next((link for link in chain if link.is_ours), None):
        return Told(ours.message, shard)
    link = next((link for link in chain if not link.text.startswith("dagster.")), chain[0] if chain else None)
    if link is None:
        return Told("no cause is recorded", shard, is_foreseen=False)
    found = FRAME.match(link.frame)
    place = f" ({found['file']}, line {found['line']})" if found else ""
    return Told(f"unforeseen {link.kind}: {link.message}{place}", shard, is_foreseen=False)


def trace_kept(name: str, trace: str, *, on_screen: bool) -> str:
    """Write a trace into the Dagster home, and return a line that says where; only the newest TRACES_KEPT are kept.

    The trace is printed if `on_screen` is true, or if the file cannot be written.
    """
    trace = without_secrets(trace)
    home = Path(os.environ.get("DAGSTER_HOME", "")).expanduser()
    file = home / FOLDER / f"{name}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{trace.rstrip()}\n", encoding="utf-8", errors="backslashreplace")
        _delete_old_traces(file.parent)
    except OSError as error:
        print(trace, file=sys.stderr)
        return f"the whole trace is above, since it cannot be written into {file.parent} ({error.strerror})"
    if on_screen:
        print(trace, file=sys.stderr)
    return f"the whole trace is in {file}"


def _delete_old_traces(folder: Path) -> None:
    traces = [path for path in folder.iterdir() if TRACE_NAME.fullmatch(path.name) and path.is_file()]
    for path in sorted(traces, key=lambda path: (path.stat().st_mtime_ns, path.name))[:-TRACES_KEPT]:
        path.unlink(missing_ok=True)


def trace_of_command(error: BaseException, command: str, *, on_screen: bool) -> str:
    """Write the trace of an error outside of runs into a file, and return the line that says where."""
    name = f"{command}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    return trace_kept(name, "".join(traceback.format_exception(error)), on_screen=on_screen)
