"""Listing of the files of a path, a folder or a glob, and of the files that are passed over."""

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from el_resources.addresses import without_query
from el_resources.sources.not_shards import UNREADABLE_FOLDER, Info, in_words, is_broken_link, spelled, without_others

WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Listing:
    """The files that a place means.

    Attributes:
        root: the folder to which shard names are relative.
        files: the shards' files, with the file system's information about each; never empty.
        others: reasons of the files and folders that were passed over, by path below the root.
    """

    root: str
    files: Mapping[str, Info]
    others: Mapping[str, str] = field(default_factory=dict)


def list_files(filesystem: AbstractFileSystem, uri: str, path: str, suffixes: tuple[str, ...]) -> Listing:
    """List the files that a path means: one file, the files below a folder, or the files that match a glob.

    Raises:
        FileNotFoundError: there is none; the error lists the files that were passed over.
    """
    if filesystem.isfile(path) or is_broken_link(filesystem, path):
        return Listing(folder_of(without_query(path)), {path: filesystem.info(path)})
    lister = TellingFileSystem() if isinstance(filesystem, LocalFileSystem) else filesystem
    if filesystem.isdir(path):
        root, wanted, takes_hidden = folder_of(f"{path.rstrip('/')}/"), suffixes, False
        found = lister.find(path, detail=True)
        nothing = f"no file below {path} ends in {spelled(suffixes)}"
        remedy = "name files that are called otherwise by a glob"
    elif wildcard := WILDCARD.search(path, len(there := _existing_folder(filesystem, path))):
        root, wanted = folder_of(path[: wildcard.start()]), ()
        takes_hidden = any(part.startswith(".") for part in path.removeprefix(root).split("/"))
        found = lister.glob(glob.escape(there) + path.removeprefix(there), detail=True)
        nothing, remedy = f"no file matches {path}", "name a file, a folder or a glob that does"
    else:
        raise FileNotFoundError(f"source {uri!r}: {path} does not exist; name a file, a folder or a glob")
    listed = _only_files(filesystem, found, suffixes)
    files, others = without_others(filesystem, root, listed, wanted, takes_hidden)
    if isinstance(lister, TellingFileSystem):
        others |= lister.denied(root)
    if not files:
        passed = f" (passed over: {in_words(others)})" if others else ""
        raise FileNotFoundError(f"source {uri!r}: {nothing}{passed}; {remedy}")
    return Listing(root, files, others)


def _existing_folder(filesystem: AbstractFileSystem, path: str) -> str:
    """Return the part of a glob that exists as written, so that brackets in its name mean themselves."""
    return existing_part(path) if isinstance(filesystem, LocalFileSystem) else ""


def existing_part(path: str) -> str:
    """Return the longest part of a path on this machine, up to a slash or its end, that exists as written."""
    ends = [match.start() for match in re.finditer("/", path)] + [len(path)]
    return path[: max((end for end in ends if os.path.lexists(path[:end])), default=0)]


class TellingFileSystem(LocalFileSystem):
    """Files of this machine. fsspec silently omits folders that it cannot list; here their errors are kept."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[OSError] = []

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        try:
            return super().ls(path, detail=detail, **options)
        except OSError as error:
            self.errors.append(error)
            raise

    def denied(self, root: str) -> dict[str, str]:
        """Return the folders that may not be listed, by path below the root; raise any other error that occurred."""
        for error in self.errors:
            if not isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError):
                raise error
        refused = [str(error.filename) for error in self.errors if isinstance(error, PermissionError)]
        return {path.removeprefix(root): UNREADABLE_FOLDER for path in refused}


def _only_files(
    filesystem: AbstractFileSystem, found: Mapping[str, Info], suffixes: tuple[str, ...]
) -> dict[str, Info]:
    """Return a listing without folders. Folders named like a data file stay, so that reading them raises an error.

    The entries of the listing tell files from folders, since a request for each would be slow. On disk the file system
    is asked, because a link may lead to a file, or to nothing.
    """

    def is_file(path: str, info: Info) -> bool:
        if isinstance(filesystem, LocalFileSystem):
            return filesystem.isfile(path) or is_broken_link(filesystem, path)
        return bool(info["type"] == "file")

    return {path: info for path, info in found.items() if is_file(path, info) or path.lower().endswith(suffixes)}


def folder_of(path: str) -> str:
    """Return the path up to and including its last slash."""
    return path[: path.rindex("/") + 1]
