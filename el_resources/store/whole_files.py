"""Files that appear whole or not at all, also after a power loss.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed; then the folder is
flushed, because a rename that is only in the system's cache can leave an empty file. The next write into the folder
removes temporary files of killed processes that are older than a day.
"""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from upath import UPath

from el_resources.store.object_stores import is_remote

ORPHAN_SECONDS = 24 * 3600
# Folders in which this process has looked for temporary files.
_swept: set[Path] = set()


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path, then move the file to its place.

    Raises:
        OSError: the folder is not writable, or the disk is full; nothing has changed in the place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path.parent)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        write(temporary)
        _flush(temporary)
        if path.is_dir():  # not made by this project; it is kept under another name
            path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside"))
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def put_whole(path: UPath, content: bytes) -> None:
    """Write bytes as a whole file, on disk or in an object store, which shows complete uploads only."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    if is_remote(str(path)):
        path.write_bytes(content)
    else:
        write_whole(Path(str(path)), write)


def remove_orphans(folder: Path) -> None:
    """Remove a folder's temporary files that are older than a day; a process does it once a folder."""
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink()
        except FileNotFoundError:  # another process has removed or renamed it
            continue


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
