"""Files of a listing that are not shards, with the reasons. A file that a URI names itself is never passed over.

| reason | files |
|---|---|
| hidden | a file or folder whose name begins with a dot: `._x`, `.ipynb_checkpoints`, `.git` |
| bookkeeping | files that Spark, Hadoop, Dask and Delta Lake write next to data |
| pointer | a Git LFS, Xet or git-annex pointer, whose content was not fetched |
| named otherwise | in a folder: a file without the format's suffix |
| unreadable folder | a folder whose files cannot be listed |

Only files smaller than POINTER_BYTES are opened; the listing gives their size.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from el_resources.listed_names import listed
from el_resources.store.file_kinds import POINTER_BYTES, pointer

Info = Mapping[str, Any]  # a file system's information about a file

HIDDEN = "hidden: the name begins with a dot"
BOOKKEEPING = "written by Spark, Dask or Delta Lake next to data"
UNREADABLE_FOLDER = "a folder that may not be listed; grant access to it"
OTHERWISE_NAMED = "named otherwise than"
# Reasons without a remedy: the name shows that the file is not a shard.
BY_NAME = (HIDDEN, BOOKKEEPING, OTHERWISE_NAMED)
OTHER_FORMAT = "neither Parquet nor JSON lines"
BOOKKEEPING_NAME = re.compile(r"_SUCCESS|_(?:committed|started)_.*|_metadata|_common_metadata|_delta_log|_temporary")
ANNEX_OBJECTS = "/annex/objects/"


def without_others(
    filesystem: AbstractFileSystem, root: str, listed: Mapping[str, Info], suffixes: tuple[str, ...], takes_hidden: bool
) -> tuple[dict[str, Info], dict[str, str]]:
    """Return the files of a listing that are shards, and the reasons of the others by path below the root.

    Args:
        suffixes: suffixes of the format; empty if any name is taken.
        takes_hidden: the user's pattern names hidden files, so they are not passed over.
    """
    shards: dict[str, Info] = {}
    others: dict[str, str] = {}
    for path, info in listed.items():
        relative = path.removeprefix(root)
        # Judge by name.
        if found := _by_name(relative, suffixes, takes_hidden):
            others.update([found])
        # Judge by content.
        elif words := _pointer(filesystem, path, info):
            others[relative] = words
        else:
            shards[path] = info
    return shards, others


def pointers(filesystem: AbstractFileSystem, files: Mapping[str, str]) -> dict[str, str]:
    """Return the kinds of the pointers among the files, by name; `files` are paths on this machine by name."""
    found = {name: _pointer(filesystem, path, {"size": _size(path)}) for name, path in files.items()}
    return {name: words for name, words in found.items() if words}


def broken_links(folder: Path, config: str, is_data: Callable[[str], object]) -> dict[str, str]:
    """Return the data files of a repository that are links to nothing, with the reason, by path.

    If the config is a folder, only files below it count. `datasets` leaves such links out silently.
    """
    found = {}
    for path in sorted((folder / config if (folder / config).is_dir() else folder).rglob("[!.]*")):
        name = path.relative_to(folder).as_posix()
        if is_data(name) and is_broken_link(LocalFileSystem(), str(path)) and not _by_name(name, (), False):
            found[name] = _pointer(LocalFileSystem(), str(path), {}) or "a link that leads nowhere"
    return found


def _size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).is_file() else 0


def _by_name(relative: str, suffixes: tuple[str, ...], takes_hidden: bool) -> tuple[str, str] | None:
    """Return the file, or one of its folders, with the reason why it is not a shard; None if names do not show one."""
    parts = relative.split("/")
    for depth, part in enumerate(parts, start=1):
        if part.startswith(".") and not takes_hidden:
            return "/".join(parts[:depth]), HIDDEN
        if BOOKKEEPING_NAME.fullmatch(part):
            return "/".join(parts[:depth]), BOOKKEEPING
    if suffixes and not relative.lower().endswith(suffixes):
        return relative, f"{OTHERWISE_NAMED} {spelled(suffixes)}"
    return None


def _pointer(filesystem: AbstractFileSystem, path: str, info: Info) -> str | None:
    """Return the kind of pointer that a file is; None if it is not a pointer."""
    if is_broken_link(filesystem, path):
        return pointer(ANNEX_OBJECTS.encode()) if ANNEX_OBJECTS in str(Path(path).readlink()) else None
    if info.get("type") == "directory" or not 0 < (info.get("size") or 0) < POINTER_BYTES:
        return None
    try:
        with filesystem.open(path, "rb") as file:
            return pointer(file.read(POINTER_BYTES))
    except (PermissionError, FileNotFoundError):  # reported when the file is read
        return None


def is_broken_link(filesystem: AbstractFileSystem, path: str) -> bool:
    return isinstance(filesystem, LocalFileSystem) and Path(path).is_symlink() and not Path(path).exists()


def spelled(suffixes: tuple[str, ...]) -> str:
    """Return a format's suffixes in words, without listing those of its compressed files."""
    plain = [suffix for suffix in suffixes if suffix.count(".") == 1]
    return " or ".join(plain) + (", compressed or not" if len(plain) < len(suffixes) else "")


def in_words(others: Mapping[str, str]) -> str:
    """Return a text about the files that were passed over: for each reason their number and the first names.

    Example:
        >>> in_words({"._a.jsonl": HIDDEN, "b.jsonl": "a Git LFS pointer; fetch its content"})
        '1 hidden: the name begins with a dot (._a.jsonl); 1 a Git LFS pointer; fetch its content (b.jsonl)'
    """
    return "; ".join(lines(others))


def lines(others: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each reason."""
    for reason in dict.fromkeys(others.values()):
        names = sorted(name for name, why in others.items() if why == reason)
        yield f"{len(names)} {reason} ({listed(names)})"
