"""Sources that are files: `parquet:` and `jsonl:` over a file, a folder (searched below) or a glob. One shard per file.

Guarantees:
- A shard's name is the file's path relative to the folder, or to the part of the glob before its first wildcard. It
  does not depend on other files, so new files rename nothing. Characters that a partition key must not contain are
  percent-encoded, and so is the percent sign, so that two files never share a name.
- Credentials in an address (`https://user:password@host/…?signature`) open its files and are not part of names.
- Hidden files, bookkeeping and pointers are not shards; `passed_over` lists them. A file that the URI names itself is
  always a shard.
- A file that cannot be opened stays a shard, and only that shard fails. Its fingerprint contains the fault.
- An object lists the files once, at first use; open the source again to see newer files.
- A fingerprint is the hash of a file's bytes, which is remembered as long as its size and times do not change. In an
  object store it is the entity tag, which changes whenever an object is written, so nothing is downloaded.

Files are read through fsspec, from a path on this machine or an address of any scheme that fsspec knows
(`parquet:s3://bucket/prefix/*.parquet`, `jsonl:gs://…`); el_resources.store.object_stores explains the credentials.
"""

import errno
import os
import re
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b, file_digest
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from el_resources.addresses import one_line, secrets_kept, without_secrets
from el_resources.sources.contracts import CorruptShardError, unknown_shard
from el_resources.sources.file_formats import SUFFIXES, FileFormat
from el_resources.sources.file_listing import Listing, list_files
from el_resources.sources.not_shards import BY_NAME, Info
from el_resources.store.object_stores import is_remote, is_s3, open_filesystem, s3_faults_named

# Dagster refuses control characters and "..." in partition keys; surrogates are bytes of a name that are not UTF-8.
NOT_IN_SHARD_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff%]|\.(?=\.\.)")
# Keys under which file systems list the hash or tag of a file's bytes: S3, Google Cloud Storage, Azure.
ENTITY_TAGS = ("ETag", "md5Hash", "content_md5", "etag")


@dataclass(kw_only=True)
class ShardFiles(ABC):
    """The files of a source, one per shard: their names, places, fingerprints and formats.

    Attributes:
        location: the URI without its scheme.
        variable: the setting that names the source, for errors.
    """

    uri: str
    location: str
    variable: str = "source"

    def shards(self) -> list[str]:
        with self.faults():
            return list(self.paths)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn faults of the place and the network into one line with the setting, the place and the remedy."""
        with secrets_kept(), setting_named(self.variable, self.location), self.place_faults():
            yield

    def path(self, shard: str) -> str:
        """Return a shard's path in the file system. Raises ValueError for an unknown shard."""
        if shard not in self.paths:
            raise unknown_shard(shard, self.uri, self.shards())
        return self.paths[shard]

    def fingerprint(self, shard: str, reader: tuple[object, ...]) -> str:
        """Return the hash of the shard's content and of the settings by which it is read."""
        path = self.path(shard)
        with self.faults():
            content = f"{(self.format(path), self.license, *reader)} {self._digest(path)}"
        return blake2b(content.encode(), digest_size=16).hexdigest()

    def _digest(self, path: str) -> str:
        """Return the digest of the content, or of the fault if the file cannot be read."""
        try:
            return self.content_digest(path)
        except OSError as error:
            if fault := self.fault(error):
                return f"unreadable: {fault}"
            raise

    def fault(self, error: OSError) -> str | None:
        """Return the fault of a file that cannot be opened; None if it may affect the whole source."""
        return fault_of_a_file(self.filesystem, self.root, error) if self.root else None

    def origin(self, shard: str) -> dict[str, str]:
        """Return the origin of a shard for the stamp of its table."""
        return {"source": self.uri, "file": without_secrets(self.path(shard))}

    @property
    def license(self) -> str:
        """Return the licence of rows that name none."""
        return ""

    @property
    @abstractmethod
    def filesystem(self) -> AbstractFileSystem: ...

    @property
    @abstractmethod
    def root(self) -> str:
        """The folder with the files; empty if files cannot disappear one by one."""

    @abstractmethod
    def passed_over(self) -> dict[str, str]:
        """Return the reasons of the listed files that are not shards, by path below the root."""

    @property
    @abstractmethod
    def paths(self) -> Mapping[str, str]:
        """Return the path of every shard, ordered by the shards' names."""

    @abstractmethod
    def format(self, path: str) -> FileFormat: ...

    @abstractmethod
    def content_digest(self, path: str) -> str:
        """Return a fingerprint that changes whenever the file's bytes do."""

    @abstractmethod
    def place_faults(self) -> AbstractContextManager[None]:
        """Add place and remedy to the network faults that this kind of place recognises."""


@dataclass(kw_only=True)
class LocatedFiles(ShardFiles):
    """The files of a path, an address or a glob, all of one format."""

    file_format: FileFormat
    _digests: "FileDigests" = field(default_factory=lambda: FileDigests(), init=False, repr=False)

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
    def _listing(self) -> Listing:
        filesystem, path = self._place
        with self.faults():
            return list_files(filesystem, self.uri, path, SUFFIXES[self.file_format])

    @property
    def root(self) -> str:
        return self._listing.root

    @cached_property
    def paths(self) -> dict[str, str]:
        named = sorted((shard_name(self._below_root(file)), file) for file in self._listing.files)
        if len(dict(named)) < len(named):
            raise ValueError(
                f"source {self.uri!r} has files whose addresses differ only after `?`, so that their shards would have "
                "one name; name one of them, or serve them under different paths"
            )
        return dict(named)

    def _below_root(self, file: str) -> str:
        """Return the part of a file's address that names its shard: the part after the root, without a query."""
        return without_secrets(file).removeprefix(without_secrets(self.root))

    def passed_over(self) -> dict[str, str]:
        return {self._below_root(self.root + place): why for place, why in self._listing.others.items()}

    def format(self, path: str) -> FileFormat:
        return self.file_format

    def content_digest(self, path: str) -> str:
        return self._digests.of(self.filesystem, path, self._listing.files.get(path))

    def place_faults(self) -> AbstractContextManager[None]:
        return s3_faults_named(self.location) if is_s3(self.location) else nullcontext()


# Digests of local files, kept for the whole process: a sensor opens its source anew at every tick.
_LOCAL_DIGESTS: dict[tuple[str, str], str] = {}


class FileDigests:
    """Hashes of files, kept as long as size and times do not change; entity tags for stores that have them."""

    def __init__(self) -> None:
        self._remote: dict[tuple[str, str], str] = {}

    def of(self, filesystem: AbstractFileSystem, path: str, listed: Info | None = None) -> str:
        """Return a file's digest.

        Args:
            listed: the entry of a listing. If it has the tag, no request is made; a file that changed since is read
                under its old tag, and the next listing finds the change.
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


# Classes that stay when the setting is put in front of an error's message.
NAMED_CLASSES = (FileNotFoundError, PermissionError, ConnectionError, ValueError)
# Packages whose errors are about a server or an address, though some are neither OSError nor ValueError.
CLIENTS = ("aiohttp", "ftplib", "paramiko", "yarl")
OWN_FOLDER = f"{Path(__file__).parents[1]}{os.sep}"


@contextmanager
def setting_named(variable: str, location: str) -> Iterator[None]:
    """Put the setting in front of this project's errors; turn other libraries' errors into an unreachable place."""
    try:
        yield
    except CorruptShardError:
        raise
    except Exception as error:
        words = without_secrets(one_line(error))
        if _is_own(error):
            if type(error) not in NAMED_CLASSES or variable in words:
                raise
            raise type(error)(f"{variable}: {words}") from error
        if not is_remote(location) or not _is_of_a_place(error):
            raise
        place = without_secrets(location)
        if isinstance(error, ValueError):
            raise ValueError(f"{variable}: {place} cannot be opened ({words}); correct the address") from error
        raise ConnectionError(
            f"{variable}: {place} cannot be reached ({words}); check the address, its credentials and the network"
        ) from error


def _is_of_a_place(error: Exception) -> bool:
    is_client = type(error).__module__.partition(".")[0] in CLIENTS
    return is_client or isinstance(error, OSError | EOFError | ValueError)


def _is_own(error: Exception) -> bool:
    """Return true if this package raised the error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.startswith(OWN_FOLDER)


# Faults of a single file, in words; others may be faults of the disk or the network.
FAULTS_OF_A_FILE = {
    errno.ENOENT: "it is not there: it went since it was listed, or it is a link that leads nowhere",
    errno.EACCES: "it may not be read (permission denied)",
    errno.EPERM: "it may not be read (permission denied)",
    errno.EISDIR: "it is a folder; name the files in it, as in FOLDER/*",
    errno.ENOTDIR: "it is not there: a part of its path is not a folder",
    errno.ELOOP: "it is a link that leads in a circle",
}


def fault_of_a_file(filesystem: AbstractFileSystem, root: str, error: OSError) -> str | None:
    """Return the fault of a file that cannot be opened; None if other files may be affected too."""
    if not isinstance(filesystem, LocalFileSystem):
        return FAULTS_OF_A_FILE[errno.ENOENT] if _went(error) and filesystem.exists(root) else None
    number = errno.ENOENT if _went(error) else error.errno
    return FAULTS_OF_A_FILE.get(number or 0) if os.access(root, os.R_OK | os.X_OK) else None


def _went(error: OSError) -> bool:
    return isinstance(error, FileNotFoundError)


def still_there(shards: Iterable[str], passed_over: Mapping[str, str]) -> dict[str, str]:
    """Return the shards whose file exists but is passed over (an unfetched pointer, a locked folder), and why.

    Args:
        passed_over: reasons by path below the root.
    """
    reasons = {shard_name(path): why for path, why in passed_over.items() if not why.startswith(BY_NAME)}
    found = {}
    for shard in shards:
        parts = shard.split("/")
        places = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        if why := next((reasons[place] for place in places if place in reasons), ""):
            found[shard] = why
    return found


def shard_name(relative_path: str) -> str:
    """Return a partition key that looks like the path; different paths have different keys."""
    return NOT_IN_SHARD_NAMES.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")), relative_path
    )
