"""A digest of a whole Parquet file in its own footer, by which a change of any byte is noticed.

A file is written with a blank digest among its metadata. `seal` then hashes all of its bytes and puts the result in the
place of the blank; `fault_in` hashes them again with the place blanked. So pages, footer and stamp are covered alike,
whichever library wrote the file, and a stamp that was copied into another file does not fit it.

A file on disk that was found to be another is noted in a small file next to it, so that a look that hashes nothing (a
schedule's, which asks for what is missing) learns what a run found. The note holds as long as the file is the same.

Costs: one more read of the file after it was written, and one before its rows are used; SHA-256 takes about 1.5 GB/s on
a core. A file is hashed once a process as long as its size and times stay as they are.
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
# Path -> (inode, size, time of the last change), and what was found then.
_known: dict[str, tuple[tuple[int, int, int], str]] = {}


class NoParquetFileError(ValueError):
    """A file that does not begin and end as a Parquet file does."""


def seal(file: BinaryIO) -> None:
    """Put the digest of a file into its footer; the file must have been written with a blank one.

    Raises:
        NoParquetFileError: the file is none.
    """
    place = _digest_in(file)
    assert place is not None and place[1] == BLANK, "a file is sealed once, after it was written with a blank digest"
    digest = _hashed(file, place[0])
    file.seek(place[0])
    file.write(digest.encode())


def fault_in(file: BinaryIO) -> str:
    """Return why the file is not the one that was sealed, in words; empty if it is, or if it never was sealed."""
    try:
        place = _digest_in(file)
    except NoParquetFileError as error:
        return str(error)
    if place is None or _hashed(file, place[0]) == place[1]:
        return ""
    return "its content is not what was written: its digest differs"


def fault_of(place: str) -> str:
    """Return the fault of a file, as `fault_in` does; one on disk that has not changed since is not read again.

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
        with contextlib.suppress(OSError):  # a store that may only be read
            _note(path).write_text(json.dumps([*state, fault]))
    return fault


def noted_fault(place: str) -> str:
    """Return the fault that `fault_of` found in a file on disk, in this or another process, if the file is the same."""
    path = Path(place)
    if is_remote(place) or not _note(path).exists():
        return ""
    try:
        *state, fault = json.loads(_note(path).read_text())
    except (OSError, ValueError, TypeError):
        return ""
    return str(fault) if tuple(state) == _state(path) else ""


def forget_fault(path: Path) -> None:
    """Remove the note on a file that is replaced or removed."""
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
    """Return the hash of all bytes, those of the digest taken as blank."""
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
