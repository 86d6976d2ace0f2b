"""Sources that are files: `parquet:` and `jsonl:` over a file, a folder (searched below) or a glob. One shard per file.

Guarantees:
- A shard's name is the file's path relative to the folder, or to the part of the glob before its first wildcard. It
  depends on no other file, so new files rename nothing. Characters that a partition key may not hold are
  percent-encoded, and so is the percent sign, which keeps any two names apart.
- The listing is taken once per object, at first use; open the source again to see files that came later.
- A fingerprint is the hash of a file's bytes, remembered while its size and times stand still; in an object store it is
  the entity tag, which the store makes anew whenever an object is written, so that nothing is downloaded to compare.

Bytes are reached through fsspec: a path on this machine, or an address of any scheme that fsspec knows
(`parquet:s3://bucket/prefix/*.parquet`, `jsonl:gs://…`); el_resources.object_stores says where credentials come from.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from el_resources.corpus_source import unknown_shard
from el_resources.file_formats import SUFFIXES, FileFormat
from el_resources.object_stores import faults_named, is_remote, open_filesystem

# Dagster refuses control characters and "..." in partition keys; the surrogates are a name's bytes that are not UTF-8.
NOT_IN_SHARD_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff%]|\.(?=\.\.)")
WILDCARD = re.compile(r"[*?\[]")
# Where file systems keep the hash or tag of what a file holds: S3, Google Cloud Storage, Azure.
ENTITY_TAGS = ("ETag", "md5Hash", "content_md5", "etag")

Info = Mapping[str, Any]  # what a file system says of a file


@dataclass(kw_only=True)
class ShardFiles(ABC):
    """The files of a source, one per shard: their names, places, fingerprints and formats."""

    uri: str

    def shards(self) -> list[str]:
        return list(self.paths)

    def path(self, shard: str) -> str:
        """Where a shard lies in the file system. Raises ValueError for a shard that is not there."""
        if shard not in self.paths:
            raise unknown_shard(shard, self.uri, self.shards())
        return self.paths[shard]

    def fingerprint(self, shard: str, reader: tuple[object, ...]) -> str:
        """Hash of the shard's content and of what decides how it is read."""
        path = self.path(shard)
        with self.faults():
            content = f"{(self.format(path), self.license, *reader)} {self.content_digest(path)}"
        return blake2b(content.encode(), digest_size=16).hexdigest()

    def origin(self, shard: str) -> dict[str, str]:
        """What a table records of where the shard comes from."""
        return {"source": self.uri, "file": self.path(shard)}

    @property
    def license(self) -> str:
        """Licence of every row that names none."""
        return ""

    @property
    @abstractmethod
    def filesystem(self) -> AbstractFileSystem: ...

    @property
    @abstractmethod
    def paths(self) -> Mapping[str, str]:
        """Path of every shard, ordered by the shards' names."""

    @abstractmethod
    def format(self, path: str) -> FileFormat: ...

    @abstractmethod
    def content_digest(self, path: str) -> str:
        """What changes whenever the file's bytes do."""

    @abstractmethod
    def faults(self) -> AbstractContextManager[None]:
        """Within it, faults of the network name the source and say what to do."""


@dataclass(kw_only=True)
class LocatedFiles(ShardFiles):
    """The files that a path, an address or a glob means, all of one format."""

    location: str
    file_format: FileFormat
    _digests: "FileDigests" = field(default_factory=lambda: FileDigests(), init=False, repr=False)
    _listed: Mapping[str, Info] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def _place(self) -> tuple[AbstractFileSystem, str]:
        if not self.location:
            raise ValueError(
                f"source {self.uri!r} names no place; write one after the scheme: a file, a folder or a glob"
            )
        if is_remote(self.location):
            return open_filesystem(self.location)
        return LocalFileSystem(), str(Path(self.location.removeprefix("file://")).expanduser().absolute())

    @property
    def filesystem(self) -> AbstractFileSystem:
        return self._place[0]

    @cached_property
    def paths(self) -> dict[str, str]:
        filesystem, path = self._place
        with self.faults():
            root, self._listed = list_files(filesystem, self.uri, path, SUFFIXES[self.file_format])
        return dict(sorted((shard_name(file.removeprefix(root)), file) for file in self._listed))

    def format(self, path: str) -> FileFormat:
        return self.file_format

    def content_digest(self, path: str) -> str:
        return self._digests.of(self.filesystem, path, self._listed.get(path))

    def faults(self) -> AbstractContextManager[None]:
        return faults_named(self.location)


# Digests of this machine's files, kept while the process lives: a sensor opens its source anew at every tick.
_LOCAL_DIGESTS: dict[tuple[str, str], str] = {}


class FileDigests:
    """Hashes of files' bytes, remembered while size and times stand still; an entity tag where the store has one."""

    def __init__(self) -> None:
        self._remote: dict[tuple[str, str], str] = {}

    def of(self, filesystem: AbstractFileSystem, path: str, listed: Info | None = None) -> str:
        """A file's digest.

        Args:
            listed: what a listing said of the file. Where it has the tag, no request is made; a file that changed
                since is read under its old tag, so that the next listing finds it changed.
        """
        if not isinstance(filesystem, LocalFileSystem):
            info = listed or filesystem.info(path)
            if tag := next((info[name] for name in ENTITY_TAGS if info.get(name)), None):
                return f"tag {tag}"
        key = (path, filesystem.ukey(path))  # follows from size, times and inode
        known = _LOCAL_DIGESTS if isinstance(filesystem, LocalFileSystem) else self._remote
        if key not in known:
            with filesystem.open(path, "rb") as file:
                known[key] = file_digest(file, "blake2b").hexdigest()
        return known[key]


def list_files(
    filesystem: AbstractFileSystem, uri: str, path: str, suffixes: tuple[str, ...]
) -> tuple[str, dict[str, Info]]:
    """The folder that shard names are relative to, and the files that `path` means with their facts; never none."""
    if filesystem.isfile(path):
        return folder_of(path), {path: filesystem.info(path)}
    if filesystem.isdir(path):
        found = _only_files(filesystem, filesystem.find(path, detail=True))
        files = {file: info for file, info in found.items() if file.lower().endswith(suffixes)}
        if not files:
            expected = f"no file below {path} ends in {' or '.join(suffixes)}"
            raise FileNotFoundError(f"source {uri!r}: {expected}; name files that are called otherwise by a glob")
        return folder_of(f"{path.rstrip('/')}/"), files
    if not (wildcard := WILDCARD.search(path)):
        raise FileNotFoundError(f"source {uri!r}: {path} does not exist; name a file, a folder or a glob")
    files = _only_files(filesystem, filesystem.glob(path, detail=True))
    if not files:
        raise FileNotFoundError(f"source {uri!r}: no file matches {path}; name a file, a folder or a glob that does")
    return folder_of(path[: wildcard.start()]), files


def _only_files(filesystem: AbstractFileSystem, found: Mapping[str, Info]) -> dict[str, Info]:
    """The listing says what is a file; asking again would be a request for each. On disk a link may lead to one."""
    if isinstance(filesystem, LocalFileSystem):
        return {path: info for path, info in found.items() if filesystem.isfile(path)}
    return {path: info for path, info in found.items() if info["type"] == "file"}


def folder_of(path: str) -> str:
    """The path up to and with its last slash."""
    return path[: path.rindex("/") + 1]


def shard_name(relative_path: str) -> str:
    """A partition key that reads like the path; two paths never share one."""
    return NOT_IN_SHARD_NAMES.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")), relative_path
    )
