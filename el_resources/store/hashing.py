"""Digest of a whole Parquet file, stored in its own footer, that shows a change of any byte.

A file is written with a blank digest among its metadata. `seal` then hashes all of its bytes and puts the result in the
place of the blank; `fault_in` replaces the digest by the blank again and compares the hashes. The digest covers pages,
footer and stamp, whichever library wrote the file, and a stamp that was copied into another file does not match it.

A fault of a file on disk is noted in a small file next to it. A schedule looks for missing tables without hashing, and
learns from the note what a run found. The note is valid as long as the file does not change.

Costs: one more read of the file after it was written, and one before its rows are used; SHA-256 reads about 1.5 GB/s
on a core. A process hashes a file again only if its size or times changed.
"""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import BinaryIO

from upath import UPath

from el_resources.store.object_stores import is_remote

BLANK = "0" * 64
# The first member of the JSON object that holds a table's stamp.
DIGEST_FIELD = "file_digest"
_PLACE = re.compile(rb'"' + DIGEST_FIELD.encode() + rb'": "(.{64})"', re.DOTALL)
_MAGIC = b"PAR1"
_BLOCK_BYTES = 2**20
# Path -> (inode, size, time of the last change), and the fault found then.
_known: dict[str, tuple[tuple[int, int, int], str]] = {}


class NoParquetFileError(ValueError):
    """A file that does not begin and end as a Parquet file does."""


def seal(file: BinaryIO) -> None:
    """Put the digest of a file into its footer; the file must have been written with a blank one.

    Raises:
        NoParquetFileError: it is not a Parquet file.
    """
    place = _digest_in(file)
    assert place is not None and place[1] == BLANK, "a file is sealed once, after it was written with a blank digest"
    digest = _hashed(file, place[0])
    file.seek(place[0])
    file.write(digest.encode())


def fault_in(file: BinaryIO) -> str:
    """Return in words why the file is not the one that was sealed; empty if it is, or if it was never sealed."""
    try:
        place = _digest_in(file)
    except NoParquetFileError as error:
        return str(error)
    if place is None or _hashed(file, place[0]) == place[1]:
        return ""
    return "its content is not what was written: its digest differs"


def fault_of(place: str) -> str:
    """Return the fault of a file, as `fault_in` does. A file on disk is read again only if it changed.

    Raises:
        OSError: the file cannot be opened or read.
    """
    if is_remote(place):
        with UPath(place, use_listings_cache=False).open("rb") as file:
            return fault_in(file)
    path = Path(place)
    state = _state(path)
    known = _known.get(place)
    if known is not None and known[0] == state:
        return known[1]
    with path.open("rb") as file:
        fault = fault_in(file)
    _known[place] = (state, fault)
    if fault:
        with contextlib.suppress(OSError):  # a read-only store
            _note(path).write_text(json.dumps([*state, fault]))
    return fault


def noted_fault(place: str) -> str:
    """Return the fault that `fault_of` found in a file on disk, in any process; empty if the file changed since."""
    path = Path(place)
    if is_remote(place) or not _note(path).exists():
        return ""
    try:
        *state, fault = json.loads(_note(path).read_text())
    except (OSError, ValueError, TypeError):
        return ""
    return str(fault) if tuple(state) == _state(path) else ""


def forget_fault(path: Path) -> None:
    """Remove the note on a file that was replaced or removed."""
    _note(path).unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.damaged")


def _digest_in(file: BinaryIO) -> tuple[int, str] | None:
    """Return the position of the digest in the file, and the digest; None if the footer has none."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise NoParquetFileError("its file is empty")
    file.seek(0)
    head = file.read(len(_MAGIC))
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if size < 12 or head != _MAGIC or tail[4:] != _MAGIC or length > size - 12:
        raise NoParquetFileError("its file is cut short, or is not a Parquet file")
    start = size - 8 - length
    file.seek(start)
    found = _PLACE.search(file.read(length))
    return (start + found.start(1), found[1].decode("latin-1")) if found else None


def _hashed(file: BinaryIO, place: int) -> str:
    """Return the hash of all bytes, with the blank in place of the digest."""
    hashed = hashlib.sha256()
    file.seek(0)
    for part in (place, None):
        left = part
        while block := file.read(_BLOCK_BYTES if left is None else min(_BLOCK_BYTES, left)):
            hashed.update(block)
            left = None if left is None else left - len(block)
        if part is not None:
            hashed.update(BLANK.encode())
            file.seek(place + len(BLANK))
    return hashed.hexdigest()
