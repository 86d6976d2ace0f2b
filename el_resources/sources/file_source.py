"""A source whose shards are files: the base of file corpora and of instruction files."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from el_resources.sources.contracts import CorruptShardError
from el_resources.sources.shard_files import ShardFiles

Item = TypeVar("Item")


@dataclass(kw_only=True)
class FileSource(ABC, Generic[Item]):
    """A source that reads an item from each row or line of its files."""

    files: ShardFiles

    @property
    def uri(self) -> str:
        return self.files.uri

    def shards(self) -> list[str]:
        return self.files.shards()

    def passed_over(self) -> dict[str, str]:
        """Return the reasons of the listed files that are not shards, by path."""
        return self.files.passed_over()

    def origin(self, shard: str) -> dict[str, str]:
        return self.files.origin(shard)

    def items(self, shard: str) -> Iterator[Item]:
        """Return an iterator over a shard's items in stored order; an unknown shard is refused at once."""
        return self._items(shard, self.files.path(shard))

    def _items(self, shard: str, path: str) -> Iterator[Item]:
        read = self._parquet if self.files.format(path) == "parquet" else self._jsonl
        with self.files.faults():
            try:
                yield from read(shard, path)
            except OSError as error:
                if fault := self.files.fault(error):
                    raise CorruptShardError(shard, path, fault) from error
                raise

    @abstractmethod
    def _parquet(self, shard: str, path: str) -> Iterator[Item]: ...

    @abstractmethod
    def _jsonl(self, shard: str, path: str) -> Iterator[Item]: ...
