"""The files that a path, a folder or a glob means, and what is passed over on the way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from el_resources.not_shards import UNREADABLE_FOLDER, Info, in_words, is_broken_link, spelled, without_others

WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Listing:
    """What a place means.

    Attributes:
        root: the folder that shard names are relative to.
        files: the shards' files with what the file system says of them; never none.
        others: what was passed over, by its path below the root, and why.
    """

    root: str
    files: Mapping[str, Info]
    others: Mapping[str, str] = field(default_factory=dict)


def list_files(filesystem: AbstractFileSystem, uri: str, path: str, suffixes: tuple[str, ...]) -> Listing:
    """The files that a path means: one, those below a folder, or those that match a glob.

    Raises:
        FileNotFoundError: there is none; says what was passed over.
    """
    if filesystem.isfile(path) or is_broken_link(filesystem, path):
        return Listing(folder_of(path), {path: filesystem.info(path)})
    denied: dict[str, str] = {}
    if filesystem.isdir(path):
        root, wanted, takes_hidden = folder_of(f"{path.rstrip('/')}/"), suffixes, False
        found = filesystem.find(path, detail=True, **_told_of(filesystem, root, denied))
        nothing = f"no file below {path} ends in {spelled(suffixes)}"
        remedy = "name files that are called otherwise by a glob"
    elif wildcard := WILDCARD.search(path):
        root, wanted = folder_of(path[: wildcard.start()]), ()
        takes_hidden = any(part.startswith(".") for part in path.removeprefix(root).split("/"))
        found = filesystem.glob(path, detail=True, **_told_of(filesystem, root, denied))
        nothing, remedy = f"no file matches {path}", "name a file, a folder or a glob that does"
    else:
        raise FileNotFoundError(f"source {uri!r}: {path} does not exist; name a file, a folder or a glob")
    listed = _only_files(filesystem, found, suffixes)
    files, others = without_others(filesystem, root, listed, wanted, takes_hidden)
    if not files:
        passed = f" (passed over: {in_words({**others, **denied})})" if others or denied else ""
        raise FileNotFoundError(f"source {uri!r}: {nothing}{passed}; {remedy}")
    return Listing(root, files, {**others, **denied})


def _told_of(filesystem: AbstractFileSystem, root: str, denied: dict[str, str]) -> dict[str, Any]:
    """Have folders noted that may not be listed; fsspec leaves them out without a word, and other faults too."""

    def note(error: OSError) -> None:
        if isinstance(error, PermissionError):
            denied[str(error.filename).removeprefix(root)] = UNREADABLE_FOLDER
        elif not isinstance(error, FileNotFoundError):
            raise error

    return {"on_error": note} if isinstance(filesystem, LocalFileSystem) else {}


def _only_files(
    filesystem: AbstractFileSystem, found: Mapping[str, Info], suffixes: tuple[str, ...]
) -> dict[str, Info]:
    """A listing without folders, but for those that are named like a file: reading those fails and says so.

    The listing says what is a file; asking again would be a request for each. On disk a link may lead to one, or to
    nothing.
    """

    def is_file(path: str, info: Info) -> bool:
        if isinstance(filesystem, LocalFileSystem):
            return filesystem.isfile(path) or is_broken_link(filesystem, path)
        return bool(info["type"] == "file")

    return {path: info for path, info in found.items() if is_file(path, info) or path.lower().endswith(suffixes)}


def folder_of(path: str) -> str:
    """The path up to and with its last slash."""
    return path[: path.rindex("/") + 1]
