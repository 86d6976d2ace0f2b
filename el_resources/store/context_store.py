"""The retrieval index: one LanceDB table of context chunks, made from the shards' tables and tagged by content.

`sync` makes the table's rows those of the given shards: it replaces shards with another fingerprint or number of rows,
deletes shards that are gone, and leaves the others alone. Then it builds the indices and tags the version
`build-<hash of shards and settings>`. Every row has its shard's fingerprint, so the table itself shows what it holds.

Guarantees:
- A tag stays on its version, unless that version lacks the content that the tag names. Readers check out a tag, so a
  sync that runs at the same time does not disturb them.
- Syncing the same content again writes nothing. Going back to content that was tagged before restores that version,
  its indices included, under its old tag. The tag `current` points to the build in force.
- The next sync completes one that died: a shard's rows appear in one commit, and `current` moves last.
- A lock object next to the table lets one writer in at a time (writer_lock.py). Readers need no lock.
- Passing faults of an object store are waited for (passing_faults.py). If the outcome of a commit is unknown, the rows
  are counted before it is repeated.
- Readers refuse a broken table, and `sync` makes it anew (index_soundness.py).
- Up to `exact_row_limit` rows dense search is exact; equal similarities are ordered by `chunk_id`, also at the cut.

Costs on 2 cores: exact dense search over vectors of 768 numbers answers 900 queries/s with 5,600 rows and 80 with
42,500; full-text search answers 90 to 180. The number of commits of a sync is bounded, however many shards there are
(index_rows.py). Old versions are kept, so a replaced shard's rows stay on disk.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from el_resources.configuration.fields.entropylong import FullTextTokenizer
from el_resources.store.index_building import build_indices
from el_resources.store.index_rows import Differences, ShardChunks, delete_shards, groups, put_group, table_schema
from el_resources.store.index_soundness import LOOK_BYTES, OPEN_BYTES, build_fault, fault_in_words, record_build
from el_resources.store.index_tags import CURRENT, build_tag, builds_in, restore, set_tag, versions_of
from el_resources.store.object_stores import client_options, faults_named, store_path
from el_resources.store.passing_faults import LANCE_ERRORS, Again, Tell, is_passing, silent
from el_resources.store.pinned_index import PinnedIndex
from el_resources.store.writer_lock import WriterLock

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection
    from lancedb.table import Table

TABLE = "context_chunks"
# Attempts of a sync to correct rows that other writers, or commits of unknown outcome, left.
PASSES = 3
# Words of refusals and shortages; such an error does not mean that the table is broken.
NOT_BROKEN = re.compile(
    r"\b40[13]\b|denied|forbidden|permission|credential|signature|too many open files|no space left|out of memory|"
    r"cannot allocate",
    re.IGNORECASE,
)
OnProgress = Callable[[str, int], None]


class BrokenIndexError(ValueError):
    """Files of the index are damaged or gone."""


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """Result of a sync. If nothing was written, `changed` is false and `tag` is the tag that was in force before."""

    tag: str
    added: list[str]
    replaced: list[str]
    deleted: list[str]
    n_rows: int
    changed: bool


@dataclass(frozen=True, kw_only=True)
class _Build:
    """Plan of a sync: the tag, the shards that have rows, the columns, and the settings of the indices."""

    tag: str
    wanted: Mapping[str, ShardChunks]
    schema: "pa.Schema"
    exact_row_limit: int
    full_text_tokenizer: FullTextTokenizer


class ContextStore:
    """The table at a folder or object store address; PinnedIndex has an example of a sync and a search.

    Args:
        tell: called with a line when the store waits for another writer or a fault, or makes a broken table anew.
    """

    def __init__(self, uri: str, *, tell: Tell = silent) -> None:
        self.uri = uri
        self._tell = tell
        self._again = Again(uri, tell)

    def sync(
        self,
        shards: Mapping[str, ShardChunks],
        *,
        settings: Mapping[str, object],
        exact_row_limit: int = 100_000,
        full_text_tokenizer: FullTextTokenizer = "icu",
        on_progress: OnProgress | None = None,
    ) -> SyncReport:
        """Make the table's rows those of these shards, then index and tag the table.

        Args:
            shards: all shards that the table is to hold, by name.
            settings: further values that the build depends on (encoder, chunk length), JSON-ready; part of the tag.
            exact_row_limit: largest number of rows for which no vector index is built.
            full_text_tokenizer: splitter of texts and queries into words.
            on_progress: called with a shard's name and its number of rows after they were added.

        Raises:
            ValueError: no shard has a chunk, or the chunks' columns are not those of `ShardChunks`.
            LockedError: another writer holds the lock for too long.
            ConnectionError: an object store did not answer for too long.
        """
        # Plan the build.
        fingerprints = {name: shard.fingerprint for name, shard in shards.items()}
        build = _Build(
            tag=build_tag(fingerprints, settings, exact_row_limit, full_text_tokenizer),
            # Not empty shards: they have no row that could show their fingerprint.
            wanted={name: shard for name, shard in shards.items() if shard.n_rows},
            schema=table_schema(shards),
            exact_row_limit=exact_row_limit,
            full_text_tokenizer=full_text_tokenizer,
        )
        if (n_rows := self._rows_in_force(build)) is not None:
            return SyncReport(tag=build.tag, added=[], replaced=[], deleted=[], n_rows=n_rows, changed=False)
        # Write under lock.
        with WriterLock(f"{self.uri.rstrip('/')}.lock", tell=self._tell) as lock:
            if (n_rows := self._rows_in_force(build)) is not None:  # another writer has just made it
                return SyncReport(tag=build.tag, added=[], replaced=[], deleted=[], n_rows=n_rows, changed=False)
            return self._write(build, lock, on_progress)

    def _rows_in_force(self, build: _Build) -> int | None:
        """Return the number of rows if the build is in force, complete and sound; None if a sync has work to do."""

        def look(_: int) -> int | None:
            if not self._exists() or self.fault(hash_bytes=OPEN_BYTES):
                return None
            table = _open_table(self._connect())
            if table is None or table.schema != build.schema:
                return None
            versions = versions_of(table)
            in_force = build.tag in versions and versions[build.tag] == versions.get(CURRENT)
            if not in_force or not Differences.of(table, build.wanted).none:
                return None
            return int(table.count_rows())

        return self._again("reading the index", look)

    def _write(self, build: _Build, lock: WriterLock, on_progress: OnProgress | None) -> SyncReport:
        # Remove broken index.
        if fault := self.fault(hash_bytes=OPEN_BYTES):
            self._tell(f"the retrieval index at {self.uri!r} is broken ({fault}); it is made anew from context_chunks")
            self._remove()
        # Compare the rows.
        table = self._again("opening the table", lambda _: self._table_for_writing(build.schema))
        first = self._again("reading the index", lambda _: Differences.of(table, build.wanted))
        versions = self._again("listing tags", lambda _: versions_of(table))
        # Restore known build.
        is_whole = False
        if build.tag in versions and not self.fault(build.tag, hash_bytes=OPEN_BYTES):
            self._again("restoring a build", lambda _: restore(table, versions[build.tag]))
            is_whole = self._again("reading the index", lambda _: Differences.of(table, build.wanted)).none
        # Make new build.
        if not is_whole:
            self._bring(table, build, lock, on_progress)
            version = table.version
            self._again("recording the build", lambda _: record_build(self.uri, TABLE, build.tag, version))
            self._again("tagging the build", lambda _: set_tag(table, build.tag, version))
        # Put in force.
        lock.still_held()
        self._again("putting the build in force", lambda _: set_tag(table, CURRENT, versions_of(table)[build.tag]))
        n_rows = self._again("counting rows", lambda _: table.count_rows())
        return SyncReport(
            tag=build.tag,
            added=first.added,
            replaced=first.replaced,
            deleted=first.deleted,
            n_rows=n_rows,
            changed=True,
        )

    def _bring(self, table: "Table", build: _Build, lock: WriterLock, on_progress: OnProgress | None) -> None:
        """Make the table's rows those of the shards, and build the indices."""
        n_new = 0
        for _ in range(PASSES):
            # Compare the rows.
            found = self._again("reading the index", lambda _: _latest_differences(table, build.wanted))
            if found.none:
                break
            lock.still_held()
            # Delete old rows.
            went = [*found.replaced, *found.deleted]
            self._again("deleting rows", partial(delete_shards, table, went))
            # Add new rows.
            n_new += self._add([*found.replaced, *found.added], table, build, lock, on_progress)
        else:
            if not self._again("reading the index", lambda _: _latest_differences(table, build.wanted)).none:
                raise RuntimeError(
                    f"the retrieval index at {self.uri!r} does not hold the rows that were written: another program "
                    "writes to it; end that, then run job build_index again"
                )
        # Build the indices.
        lock.still_held()
        self._again(
            "building indices", lambda _: build_indices(table, n_new, build.exact_row_limit, build.full_text_tokenizer)
        )

    def _add(
        self, shards: Sequence[str], table: "Table", build: _Build, lock: WriterLock, on_progress: OnProgress | None
    ) -> int:
        """Add the rows of shards, many shards in a commit; return the number of rows."""
        for group in groups(shards, build.wanted):
            lock.still_held()
            self._again("adding rows", partial(put_group, table, group, build.wanted))
            for shard in group:
                if on_progress:
                    on_progress(shard, build.wanted[shard].n_rows)
        return sum(build.wanted[shard].n_rows for shard in shards)

    def is_built(self) -> bool:
        """Return true if there is a build to open; it may be broken (see `fault`)."""
        if not self._exists():
            return False

        def look(_: int) -> bool:
            table = _open_table(self._connect())
            return table is not None and CURRENT in versions_of(table)

        return self._again("opening the index", look)

    def fault(self, tag: str | None = None, *, hash_bytes: int = LOOK_BYTES) -> str:
        """Return the fault of a tag's build in words; empty if it has none, or if no index was ever built.

        Args:
            tag: None for the build in force.
            hash_bytes: number of bytes that are read to find flipped ones.
        """
        if not self._exists():
            return ""

        def look(_: int) -> str:
            try:
                table = _open_table(self._connect())
                if table is None:
                    return fault_in_words(self.uri, TABLE, tag or CURRENT)
                versions = versions_of(table)
                if (tag or CURRENT) not in versions:
                    return ""
                named = [one for one in builds_in(versions) if versions[one] == versions[tag or CURRENT]]
                if not named:
                    return f"tag {tag or CURRENT} names version {versions[tag or CURRENT]}, which is not a build"
                table.checkout(named[-1])
                table.count_rows()
                return build_fault(self.uri, TABLE, named[-1], versions[named[-1]], hash_bytes=hash_bytes)
            except LANCE_ERRORS as error:
                if is_passing(error) or isinstance(error, PermissionError) or NOT_BROKEN.search(str(error)):
                    raise
                return fault_in_words(self.uri, TABLE, tag or CURRENT, error)

        with faults_named(self.uri):
            return self._again("opening the index", look)

    def current_tag(self) -> str:
        """Return the tag in force.

        Raises:
            ValueError: the index was never built.
        """
        versions = self._again("listing tags", lambda _: versions_of(self._open()))
        if CURRENT not in versions:
            raise self._never_built()
        return next(tag for tag in builds_in(versions) if versions[tag] == versions[CURRENT])

    def open(self, tag: str | None = None, *, hash_bytes: int = OPEN_BYTES) -> PinnedIndex:
        """Return the build of a tag for reading.

        Args:
            tag, hash_bytes: as in `fault`.

        Raises:
            ValueError: the index was never built, or has no such tag; lists its tags.
            BrokenIndexError: files of the build are damaged; names them and the job to run.
        """
        if fault := self.fault(tag, hash_bytes=hash_bytes):
            raise self._broken(fault)
        tag = tag or self.current_tag()
        table = self._again("opening the index", lambda _: self._open())
        known = builds_in(self._again("listing tags", lambda _: versions_of(table)))
        if tag not in known:
            raise ValueError(f"the index at {self.uri!r} has no build {tag!r}; choose one of {', '.join(known)}")
        self._again("opening the build", lambda _: table.checkout(tag))
        return PinnedIndex(tag, table, self._again)

    def _exists(self) -> bool:
        """Return true if the folder exists. Connecting to a local folder would make it."""
        with faults_named(self.uri):
            return bool(store_path(self.uri).exists())

    def _remove(self) -> None:
        """Remove the table with all its builds."""
        with faults_named(self.uri):
            for folder in (store_path(self.uri) / f"{TABLE}.lance", store_path(self.uri) / "builds"):
                if folder.exists():
                    folder.fs.rm(folder.path, recursive=True)

    def _connect(self) -> "DBConnection":
        import lancedb

        return lancedb.connect(self.uri, storage_options=client_options(self.uri))

    def _open(self) -> "Table":
        table = _open_table(self._connect()) if self._exists() else None
        if table is None:
            raise self._never_built()
        return table

    def _table_for_writing(self, schema: "pa.Schema") -> "Table":
        """Return the table with this schema, emptied if its vectors had another dimension. Old versions stay."""
        store = self._connect()
        table = _open_table(store)
        if table is not None and table.schema == schema:
            return table
        return store.create_table(TABLE, schema=schema, mode="create" if table is None else "overwrite")

    def _never_built(self) -> ValueError:
        return ValueError(f"the retrieval index at {self.uri!r} was never built: run job build_index")

    def _broken(self, fault: str) -> BrokenIndexError:
        return BrokenIndexError(
            f"the retrieval index at {self.uri!r} is broken: {fault}; run job build_index, which makes it anew from "
            "context_chunks"
        )


def _open_table(store: "DBConnection") -> "Table | None":
    try:
        return store.open_table(TABLE)
    except ValueError:  # the library's error if there is no table
        return None


def _latest_differences(table: "Table", wanted: Mapping[str, ShardChunks]) -> Differences:
    table.checkout_latest()
    return Differences.of(table, wanted)
