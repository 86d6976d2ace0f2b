"""One Parquet table per asset and partition: `<store>/tables/<asset>/<partition>.parquet`.

Guarantees:
- A table is stored whole or not at all, also after a power loss: on disk it is written to a temporary file that is then
  renamed (whole_files.py); in an object store it is one upload, which appears when it is complete.
- The stamp of a table (its inputs, settings and costs) is stored in its Parquet metadata, so the two stay together.
- A damaged table counts as missing, and `damage` says why: it is cut short, its bytes changed since it was written
  (hashing.py), or its stamp is broken, of a newer version or of another table. Some tables are not compared byte for
  byte: those without a digest, which early versions wrote, and those in an object store, which checks its content
  itself. For these the number of rows in the footer is compared with the stamp.
- A partition key is never used as a path: it is percent-encoded, and hashed if it is too long for the file system.
- A reader over many partitions refuses to mix settings.
"""

import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import polars as pl
from upath import UPath

from el_resources.addresses import one_line
from el_resources.store.hashing import BLANK, DIGEST_FIELD, fault_in, fault_of, forget_fault, noted_fault, seal
from el_resources.store.object_stores import client_options, faults_named, is_remote, store_path
from el_resources.store.stamps import STAMP_KEY, DamagedTableError, Stamp, digest, refuse_mixed_settings, stamp_in
from el_resources.store.whole_files import write_whole

LOG = logging.getLogger("entropylong")
UNPARTITIONED = "all"
PATH = "entropylong_path"  # a column, while files are read
# File systems allow 255 bytes, which include the suffix and the marks of a temporary name.
LONGEST_FILE_STEM = 180
_told: set[str] = set()  # damaged tables that this process has named
READERS = 32  # stamps that are requested from an object store at once


class MissingTableError(ValueError):
    """A table that a step needs has not been made."""


class UnreadableTableError(ValueError):
    """A table's file is there and cannot be read."""


class ShardTables:
    """The tables of one store.

    Args:
        verify: compare a table's bytes with its digest before its stamp or rows are used. None does so on disk, and not
            in an object store, from which the whole table would be downloaded.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as store:
        ...     tables = ShardTables(store)
        ...     tables.write(pl.DataFrame({"doc_id": ["d"]}), Stamp(asset="documents", partition="a/b", recipe="r"))
        ...     tables.path("documents", "a/b").name, tables.has("documents", "c")
        ...     tables.read("documents", "a/b")["doc_id"].to_list()
        ('a%2Fb.parquet', False)
        ['d']
    """

    def __init__(self, store: str, *, verify: bool | None = None) -> None:
        self.store = store_path(store)
        self._options = client_options(store)
        self._verify = not is_remote(str(self.store)) if verify is None else verify

    def path(self, asset: str, partition: str = UNPARTITIONED) -> UPath:
        """Return the path of a table, made or not."""
        return self.store / "tables" / asset / f"{file_stem(partition)}.parquet"

    def exists(self, asset: str, partition: str = UNPARTITIONED) -> bool:
        """Return true if a table's file is there, sound or not."""
        with faults_named(str(self.store)):
            return self.path(asset, partition).exists()

    def has(self, asset: str, partition: str = UNPARTITIONED) -> bool:
        """Return true if a table is there and sound."""
        return self.stamp(asset, partition) is not None

    def write(self, frame: pl.DataFrame, stamp: Stamp) -> None:
        """Store a table atomically; it replaces an earlier one.

        Raises:
            ValueError: the store is not writable; names the store and the setting.
        """
        path = self.path(stamp.asset, stamp.partition)
        metadata = {STAMP_KEY: json.dumps({DIGEST_FIELD: BLANK, **asdict(stamp)})}
        put = _upload if is_remote(str(path)) else _write_and_rename
        try:
            with faults_named(str(self.store)):
                put(frame, metadata, path)
        except (OSError, pl.exceptions.ComputeError) as error:  # polars' error if a disk is full
            raise ValueError(
                f"the store {str(self.store)!r} is not writable ({one_line(error)}); "
                "set EL_STORE to a folder or bucket that you may write to"
            ) from error

    def stamp(self, asset: str, partition: str = UNPARTITIONED) -> Stamp | None:
        """Return the stamp of a table; None if the table is missing, or damaged, which is logged.

        Raises:
            UnreadableTableError: the store does not let the file be read.
        """
        try:
            return self._sound_stamp(asset, partition)
        except DamagedTableError as error:
            line = f"table {asset!r} of {partition!r} counts as missing: {error}"
            key = f"{self.store}: {line}"
            if key not in _told:
                _told.add(key)
                LOG.warning(line)
            return None

    def damage(self, asset: str, partition: str = UNPARTITIONED) -> str:
        """Return in words why a table whose file exists counts as missing; empty for other tables."""
        try:
            self._sound_stamp(asset, partition)
        except DamagedTableError as error:
            return str(error)
        return ""

    def _sound_stamp(self, asset: str, partition: str) -> Stamp | None:
        if not self.exists(asset, partition):
            return None
        with self._unreadable_named(asset, partition) as path:
            if not is_remote(path):
                _refuse_no_file(Path(path))
            if fault := fault_of(path) if self._verify else noted_fault(path):
                raise DamagedTableError(fault)
            metadata = self._metadata(path)
            stamp = stamp_in(metadata, asset, partition)
            if not (self._verify and _has_digest(metadata)):
                self._refuse_other_rows(path, stamp)
            return stamp

    def _refuse_other_rows(self, path: str, stamp: Stamp) -> None:
        """Raise DamagedTableError if footer and stamp of a table differ in the number of rows."""
        if is_remote(path):
            n_rows = pl.scan_parquet(path, glob=False, storage_options=self._options).select(pl.len()).collect().item()
        else:
            from pyarrow.parquet import read_metadata  # a tenth of polars' time, and there may be thousands

            n_rows = read_metadata(path).num_rows
        if n_rows != int(stamp.facts.get("rows", n_rows)):
            raise DamagedTableError(f"it has {n_rows} rows, and its stamp says {stamp.facts['rows']}")

    def _metadata(self, path: str) -> Mapping[str, str]:
        """Return the metadata in a table's footer. Raises DamagedTableError for a file that is not a table."""
        try:
            return pl.read_parquet_metadata(path, storage_options=self._options)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            # An object store that cannot be reached gives the same error; then this raises its own.
            with UPath(path, use_listings_cache=False).open("rb") as file:
                fault = fault_in(file)
            raise DamagedTableError(fault or f"its footer is broken ({one_line(error)})") from error

    def require_stamp(self, asset: str, partition: str = UNPARTITIONED) -> Stamp:
        """Return the stamp of a table that has to exist.

        Raises:
            MissingTableError: names the asset, the partition and the remedy.
        """
        stamp = self.stamp(asset, partition)
        if stamp is None:
            damage = self.damage(asset, partition)
            what = f"is damaged for partition {partition!r} ({damage})" if damage else f"has no partition {partition!r}"
            raise MissingTableError(
                f"table {asset!r} {what} in store {str(self.store)!r}; materialize {asset} for it first"
            )
        return stamp

    def scan(self, asset: str, partition: str = UNPARTITIONED) -> pl.LazyFrame:
        """Return a table, lazily. Raises MissingTableError."""
        self.require_stamp(asset, partition)
        return pl.scan_parquet(str(self.path(asset, partition)), glob=False, storage_options=self._options)

    def read(self, asset: str, partition: str = UNPARTITIONED, columns: list[str] | None = None) -> pl.DataFrame:
        """Return a table, or some of its columns. Raises MissingTableError, UnreadableTableError."""
        scan = self.scan(asset, partition)
        with self._unreadable_named(asset, partition):
            return (scan.select(columns) if columns else scan).collect()

    def stamps(self, asset: str, partitions: Iterable[str]) -> dict[str, Stamp]:
        """Return the stamps of the partitions that have a table."""
        found = ((partition, self.stamp(asset, partition)) for partition in partitions)
        return {partition: stamp for partition, stamp in found if stamp is not None}

    def scan_many(self, asset: str, partitions: Iterable[str]) -> pl.LazyFrame:
        """Return the partitions that have a table as one lazy frame, with the partition key in `shard`.

        Raises:
            MixedSettingsError: two partitions were made under different settings; names both.
            MissingTableError: none of them exists.
        """
        stamps = self.stamps(asset, partitions)
        if not stamps:
            raise MissingTableError(
                f"table {asset!r} has no partition yet in store {str(self.store)!r}; materialize {asset} first"
            )
        refuse_mixed_settings(stamps)
        # One scan of all files: planning one scan for each takes time quadratic in their number.
        paths = {str(self.path(asset, partition)): partition for partition in stamps}
        scan = pl.scan_parquet(list(paths), glob=False, include_file_paths=PATH, storage_options=self._options)
        return scan.with_columns(shard=pl.col(PATH).replace_strict(paths, return_dtype=pl.String)).drop(PATH)

    def remove(self, asset: str, partition: str = UNPARTITIONED) -> None:
        path = self.path(asset, partition)
        path.unlink(missing_ok=True)
        if not is_remote(str(path)):
            forget_fault(Path(str(path)))

    @contextmanager
    def _unreadable_named(self, asset: str, partition: str) -> Iterator[str]:
        """Yield the table's path; an error in reading it names the table."""
        path = str(self.path(asset, partition))
        try:
            yield path
        except (OSError, pl.exceptions.ComputeError) as error:
            raise UnreadableTableError(
                f"table {asset!r} of {partition!r} cannot be read from {path} ({one_line(error)}); "
                f"if other tables of the store can be read, remove the file and materialize {asset} for it again"
            ) from error


class KnownStamps(ShardTables):
    """The tables of one store for a look at thousands of shards: every stamp is read once and remembered.

    A look reads footers alone, unless `verify` is given: bytes are not compared with digests. Faults that a run found
    on the same disk are known all the same, from its notes (hashing.py).
    """

    def __init__(self, store: str, *, verify: bool = False) -> None:
        super().__init__(store, verify=verify)
        self._known: dict[tuple[str, str], Stamp | DamagedTableError | None] = {}

    def _sound_stamp(self, asset: str, partition: str) -> Stamp | None:
        key = (asset, partition)
        if key not in self._known:
            try:
                self._known[key] = super()._sound_stamp(asset, partition)
            except DamagedTableError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, DamagedTableError):
            raise found
        return found

    def read_ahead(self, assets: Iterable[str], partitions: Iterable[str]) -> None:
        """Read these stamps now, many at once, because an object store takes a while for each."""
        if is_remote(str(self.store)):
            keys = [(asset, partition) for asset in assets for partition in partitions]
            with ThreadPoolExecutor(max_workers=READERS) as readers:
                list(readers.map(lambda key: self.stamp(*key), keys))


def _refuse_no_file(path: Path) -> None:
    """Raise DamagedTableError for a folder, or a file without read permission."""
    if path.is_dir():
        raise DamagedTableError("a folder is in its place")
    if not os.access(path, os.R_OK):
        raise DamagedTableError("this user may not read its file; grant the permission, or remove the file")


def _has_digest(metadata: Mapping[str, str]) -> bool:
    return metadata[STAMP_KEY].startswith(f'{{"{DIGEST_FIELD}"')


def _upload(frame: pl.DataFrame, metadata: dict[str, str], path: UPath) -> None:
    # Not streamed: after a failure fsspec would close its file, and so store the part that was written.
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata=metadata)
    seal(buffer)
    path.write_bytes(buffer.getvalue())


def _write_and_rename(frame: pl.DataFrame, metadata: dict[str, str], path: UPath) -> None:
    def write(temporary: Path) -> None:
        frame.write_parquet(str(temporary), metadata=metadata)
        with temporary.open("r+b") as file:
            seal(file)

    write_whole(Path(str(path)), write)
    forget_fault(Path(str(path)))


def file_stem(partition: str) -> str:
    """Return a file name for any partition key: percent-encoded, and cut with a hash if it would be too long.

    Raises:
        ValueError: the key is empty.
    """
    if not partition:
        raise ValueError("a partition key is empty; give the shard a name")
    stem = quote(partition, safe=" ").replace("~", "%7E")  # a tilde marks a stem that was cut
    if stem.startswith("."):  # a leading dot hides a file, and marks a temporary one
        stem = "%2E" + stem[1:]
    if len(stem) <= LONGEST_FILE_STEM:
        return stem
    return f"{stem[: LONGEST_FILE_STEM - 33]}~{digest(partition)}"
