"""`hf:`, data set repositories of the Hugging Face hub: `hf:OWNER/NAME[/CONFIG-OR-FOLDER][@REVISION][#SPLIT]`.

Examples: `hf:HuggingFaceFW/fineweb-edu/sample-10BT`, `hf:HuggingFaceTB/cosmopedia/stanford@main#train`,
`hf:THUDM/LongAlign-10k`. The third part is a config that the repository's card (README.md) lists, else a folder;
without it the default config is read, or all files. The split is `train` unless named. A folder on disk with the layout
of a repository is read in the same way: `hf:/data/cosmopedia/stanford`, `hf:./cosmopedia/stanford`.

Guarantees:
- A shard is one Parquet or JSON lines file of the split, named by its path in the repository. Listing downloads the
  card and no data. No script of a repository is run.
- The revision is resolved to a commit when shards are listed, and everything is read from that commit. The commit is
  recorded. A fingerprint contains the file's hash in the repository, so a shard stays current if a newer commit does
  not change its file.
- Reading streams ranges, in bounded memory. After timeouts, broken connections and the statuses 408, 429 and 5xx a
  request is repeated with growing pauses; if it still fails, an error names the repository, and no shard comes out
  empty.
- Rows without a licence get the licence of the card.

Private and gated repositories need HF_TOKEN, or `hf auth login`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]  # fsspec ships no types

from el_resources.sources.file_formats import FileFormat, format_of
from el_resources.sources.hub_repositories import LocalRepository, Repository, find_local_repository, hub_repository
from el_resources.sources.not_shards import OTHER_FORMAT, broken_links, in_words, pointers
from el_resources.sources.shard_files import ShardFiles, shard_name

DEFAULT_SPLIT = "train"
ADDRESS = re.compile(r"(?P<place>[^@#]+)(?:@(?P<revision>[^@#]+))?(?:#(?P<split>[^@#]+))?")
FORM = "write hf:OWNER/NAME[/CONFIG-OR-FOLDER][@REVISION][#SPLIT], or a local folder for OWNER/NAME"


@dataclass(kw_only=True)
class HubFiles(ShardFiles):
    """The data files of one config and split.

    Attributes:
        endpoint: address of the hub or of a mirror; empty means the library's own.
    """

    endpoint: str = ""

    @cached_property
    def _address(self) -> tuple[Repository, str, str]:
        """The parts of the location: (repository, config or folder, split)."""
        match = ADDRESS.fullmatch(self.location)
        if match is None:
            raise ValueError(f"source {self.uri!r} names no repository; {FORM}")
        place, revision, split = match["place"].rstrip("/"), match["revision"] or "", match["split"] or DEFAULT_SPLIT
        if place.startswith(("/", "./", "../", "~")):
            if revision:
                raise ValueError(f"source {self.uri!r}: a local folder has no revision; remove @{revision}")
            folder, config = find_local_repository(self.uri, place)
            return LocalRepository(folder), config, split
        owner, _, rest = place.partition("/")
        name, _, config = rest.partition("/")
        if not owner or not name:
            raise ValueError(f"source {self.uri!r} names no repository; {FORM}")
        return hub_repository(f"{owner}/{name}", revision, self.endpoint), config, split

    @property
    def filesystem(self) -> AbstractFileSystem:
        return self._address[0].filesystem

    @cached_property
    def _card(self) -> Any:
        from el_resources.sources.hub_layout import read_card

        with self.faults():
            return read_card(self.uri, self._address[0].card())

    @property
    def license(self) -> str:
        from el_resources.sources.hub_layout import license_of

        return license_of(self._card)

    @property
    def root(self) -> str:
        # A commit has all of its files, so a missing one is a fault of the hub and not of the file.
        return str(self._address[0].folder) if isinstance(self._address[0], LocalRepository) else ""

    @cached_property
    def _found(self) -> tuple[dict[str, str], dict[str, str]]:
        """Files of the split: (file by its path in the repository, reason of each file passed over by its path)."""
        from el_resources.sources.hub_layout import split_files

        repository, config, split = self._address
        with self.faults():
            files = split_files(self.uri, repository, self._card, config, split)
        found = {repository.path_in(file): file for file in files}
        others = {name: OTHER_FORMAT for name in found if not format_of(name)}
        if isinstance(repository, LocalRepository):
            others |= pointers(repository.filesystem, found)
            others |= broken_links(repository.folder, config, format_of)
        paths = {name: file for name, file in found.items() if name not in others}
        if not paths:
            raise FileNotFoundError(
                f"source {self.uri!r} has no Parquet or JSON lines file in split {split!r} (passed over: "
                f"{in_words(others)}); name a folder that has some, or convert the files"
            )
        return paths, others

    @cached_property
    def paths(self) -> dict[str, str]:
        repository = self._address[0]
        return {shard_name(name): repository.path(file) for name, file in sorted(self._found[0].items())}

    def passed_over(self) -> dict[str, str]:
        return dict(self._found[1])

    def format(self, path: str) -> FileFormat:
        name = format_of(path)
        assert name, f"{path} was listed"
        return name

    def content_digest(self, path: str) -> str:
        return self._address[0].content_digest(path)

    def origin(self, shard: str) -> dict[str, str]:
        repository = self._address[0]
        commit = {"revision": repository.commit} if repository.commit else {}
        return {"source": self.uri, "file": repository.path_in(self.path(shard)), **commit}

    @contextmanager
    def place_faults(self) -> Iterator[None]:
        with self._address[0].faults():
            yield
