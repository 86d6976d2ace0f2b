"""The Dagster instance of DAGSTER_HOME, opened by one process at a time.

Opening makes the instance's databases if there are none, and two processes that make the same SQLite files at once
break them for good (two heads in `alembic_version`). A lock file in the home, which the system releases when its holder
dies, lets them take turns; it costs a millisecond.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

# Git ignores the folder, which also holds the databases of the repository's own dagster.yaml.
LOCK = Path(".dagster") / "opening.lock"
# A first opening takes a second or two on a busy machine.
LONGEST_WAIT_SECONDS = 120.0


@contextmanager
def opened_instance() -> Iterator[dg.DagsterInstance]:
    """Yield the instance of DAGSTER_HOME; its databases are there, and another process may open it meanwhile.

    Raises:
        ValueError: another process has been opening the instance for two minutes; the error names the lock file.
    """
    with opening(Path(os.environ["DAGSTER_HOME"])):
        opened = dg.DagsterInstance.get()
    with opened as instance:
        yield instance


@contextmanager
def opening(home: Path) -> Iterator[None]:
    """Hold the lock of a home while its instance is opened."""
    path = home / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LONGEST_WAIT_SECONDS)
    except Timeout:
        raise ValueError(
            f"another process has been opening the Dagster instance of {str(home)!r} for "
            f"{LONGEST_WAIT_SECONDS:.0f} s; end it, or delete {str(path)!r} if there is none"
        ) from None
    try:
        yield
    finally:
        lock.release()
