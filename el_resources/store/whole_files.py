"""Files that appear whole or not at all, also after a power loss.

A file is written under a temporary name next to its place, flushed to the disk, and renamed; then the folder is
flushed, because a rename that only the system's cache knows can leave an empty file. Temporary files that a killed
process left are removed when something is next written into the folder, once they are older than a day.
"""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from upath import UPath

from el_resources.store.object_stores import is_remote

ORPHAN_SECONDS = 24 * 3600
# Folders that this process has looked through.
_swept: set[Path] = set()


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under a temporary name, and put it in its place.

    Raises:
        OSError: the folder is not writable, or the disk is full; the place is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path.parent)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        write(temporary)
        _flush(temporary)
        if path.is_dir():  # nothing of ours; it is kept under another name
            path.rename(path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.aside"))
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def put_whole(path: UPath, content: bytes) -> None:
    """Put bytes in a file's place; an object store shows an upload when it is complete."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    if is_remote(str(path)):
        path.write_bytes(content)
    else:
        write_whole(Path(str(path)), write)


def remove_orphans(folder: Path) -> None:
    """Remove temporary files of a folder that are older than a day; a process looks once."""
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink()
        except FileNotFoundError:  # its own process was quicker
            continue


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
