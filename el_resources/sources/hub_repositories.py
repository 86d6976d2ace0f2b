"""A data set repository: on the Hugging Face hub at one commit, or as a folder on disk with the same layout.

Retries: huggingface_hub repeats listings and reads itself, but not the look-up of a revision, which tenacity repeats.
"""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]  # fsspec ships no types
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

from el_resources.addresses import one_line, secrets_kept, without_secrets
from el_resources.sources.shard_files import FileDigests

CARD = "README.md"
ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 8.0
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)  # huggingface_hub's own choice


class Repository(Protocol):
    """Place of data files. A `file` is a name as `datasets` returns it; a `path` is one of the file system."""

    @property
    def filesystem(self) -> AbstractFileSystem: ...

    @property
    def base(self) -> str:
        """Base to which patterns of files are relative."""
        ...

    @property
    def storage_options(self) -> dict[str, dict[str, Any]]:
        """Options of the file system by scheme, for `datasets`."""
        ...

    @property
    def commit(self) -> str:
        """Hash of the commit that is read; empty if there is none."""
        ...

    def card(self) -> str:
        """Return the text of the repository's card; empty if it has none."""
        ...

    def path(self, file: str) -> str:
        """Return a file's path in the file system."""
        ...

    def path_in(self, file: str) -> str:
        """Return a file's path in the repository."""
        ...

    def content_digest(self, path: str) -> str: ...

    def faults(self) -> Any:
        """Return a context manager in which network errors name the repository and say what to do."""
        ...


def find_local_repository(uri: str, place: str) -> tuple[Path, str]:
    """Return (the repository's folder, the rest of the path).

    The folder is the nearest one, from the path upwards, that has a card; without one it is the path itself.

    Raises:
        FileNotFoundError: no folder has a card, and the path is not a folder.
    """
    path = Path(place).expanduser().absolute()
    for folder in (path, *path.parents):
        if (folder / CARD).is_file():
            rest = path.relative_to(folder).as_posix()
            return folder, "" if rest == "." else rest
    if not path.is_dir():
        raise FileNotFoundError(
            f"source {uri!r}: {path} is not a folder, and no folder above it has a {CARD}; name a folder that is laid "
            f"out like a repository of the hub, followed by a config of its {CARD}"
        )
    return path, ""


@dataclass
class LocalRepository:
    """A folder with the layout of a repository."""

    folder: Path
    filesystem: AbstractFileSystem = field(default_factory=LocalFileSystem)
    commit: str = ""
    _digests: FileDigests = field(default_factory=FileDigests)

    @property
    def base(self) -> str:
        return glob.escape(str(self.folder))

    @property
    def storage_options(self) -> dict[str, dict[str, Any]]:
        return {}

    def card(self) -> str:
        file = self.folder / CARD
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def path(self, file: str) -> str:
        return file

    def path_in(self, file: str) -> str:
        return Path(file).relative_to(self.folder).as_posix()

    def content_digest(self, path: str) -> str:
        return self._digests.of(self.filesystem, path)

    @contextmanager
    def faults(self) -> Iterator[None]:
        yield


def hub_repository(name: str, revision: str, endpoint: str) -> "HubRepository":
    """Return a repository of the hub, without a request yet."""
    from huggingface_hub import constants

    return HubRepository(name=name, revision=revision, endpoint=endpoint or constants.ENDPOINT)


@dataclass(kw_only=True)
class HubRepository:
    """A repository of the hub, at the commit to which its revision pointed at the first request."""

    name: str
    revision: str
    endpoint: str

    @cached_property
    def filesystem(self) -> AbstractFileSystem:
        from huggingface_hub import HfFileSystem

        return HfFileSystem(**self.storage_options["hf"])

    @property
    def storage_options(self) -> dict[str, dict[str, Any]]:
        # `datasets` makes a file system with the same arguments and so gets this one, and nothing is requested
        # twice. Its caches stay right after a new commit, since the commit is part of every path.
        return {"hf": {"endpoint": self.endpoint, "token": None}}

    @cached_property
    def commit(self) -> str:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint)
        commit = _retried(lambda: api.dataset_info(self.name, revision=self.revision or None).sha)
        _retried(lambda: self.filesystem.resolve_path(f"datasets/{self.name}@{commit}"))
        return str(commit)

    @property
    def base(self) -> str:
        return f"hf://datasets/{self.name}@{self.commit}"

    def card(self) -> str:
        root = self.path(self.base)
        if f"{root}/{CARD}" not in self.filesystem.ls(root, detail=False):
            return ""
        with self.filesystem.open(f"{root}/{CARD}", "rb") as file:
            # With a size, the read is a range request, which is retried; without one it is a stream, which is not.
            return bytes(file.read(file.size)).decode("utf-8")

    def path(self, file: str) -> str:
        return file.removeprefix("hf://")

    def path_in(self, file: str) -> str:
        return self.path(file).removeprefix(f"{self.path(self.base)}/")

    def content_digest(self, path: str) -> str:
        info = self.filesystem.info(path)
        return f"sha256 {info['lfs']['sha256']}" if info.get("lfs") else f"git {info['blob_id']}"

    @contextmanager
    def faults(self) -> Iterator[None]:
        with secrets_kept(), self._faults_named():
            yield

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        from httpx2 import HTTPError, InvalidURL
        from huggingface_hub.errors import (
            GatedRepoError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        place = f"data set repository {self.name!r} of {without_secrets(self.endpoint)}"
        try:
            yield
        except GatedRepoError as error:
            raise PermissionError(f"{place} is gated: accept its terms there, and set HF_TOKEN") from error
        except RepositoryNotFoundError as error:
            raise ValueError(f"{place} is not there, or private: check its name, or set HF_TOKEN") from error
        except RevisionNotFoundError as error:
            raise ValueError(
                f"{place} has no revision {self.revision!r}; correct it, or leave it out to read the main branch"
            ) from error
        except (HTTPError, InvalidURL, OfflineModeIsEnabled) as error:
            raise ConnectionError(
                f"{place} cannot be reached ({one_line(error)}); check the network, name a mirror with "
                "EL_HUB_ENDPOINT, or download it if there is a network "
                f"(hf download {self.name} --repo-type dataset --local-dir FOLDER) and read hf:FOLDER"
            ) from error


def _retried(ask: Any) -> Any:
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    wait = wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS)
    retrying = Retrying(stop=stop_after_attempt(ATTEMPTS), wait=wait, retry=retry_if_exception(_may_pass), reraise=True)
    return retrying(ask)


def _may_pass(error: BaseException) -> bool:
    """Return true for a fault of the network or of a busy server."""
    from httpx2 import NetworkError, RemoteProtocolError, TimeoutException
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in RETRIED_STATUSES
    return isinstance(error, NetworkError | RemoteProtocolError | TimeoutException)
