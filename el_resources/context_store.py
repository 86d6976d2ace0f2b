"""The retrieval index: one LanceDB table of context chunks, made from the shards' tables and tagged by content.

`sync` brings the table to the given shards: a shard whose fingerprint differs is replaced, one that went is deleted,
the others are not touched. Then it builds the indices and tags the version `build-<hash of shards and settings>`. Every
row carries its shard's fingerprint, so the table itself says what it holds.

Guarantees:
- A tag is never moved. Readers check out a tag, so a sync that runs meanwhile does not disturb them.
- Syncing the same content again writes nothing. Going back to content that was tagged before restores that version,
  its indices included, under its old tag; `current` is a pointer of ours that names the tag in force.
- A sync that died is healed by the next one: a shard's rows appear in one commit, and `current` moves last.
- Up to `exact_row_limit` rows dense search is exact; equal similarities are ordered by `chunk_id`, also at the cut.
- One writer at a time, any number of readers, in any processes.

Costs (2 cores): exact dense search with 768 numbers a row 900 queries/s over 5,600 rows and 80 over 42,500; full text
90 to 180. Old versions are kept, so a replaced shard's rows stay on disk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from el_resources.choices import FullTextTokenizer
from el_resources.index_building import build_indices
from el_resources.object_stores import client_options, faults_named, store_path
from el_resources.pinned_index import IDS_PER_FILTER, PinnedIndex, fingerprints_in, is_in, slices
from el_resources.shard_tables import digest

if TYPE_CHECKING:
    from lancedb.db import DBConnection
    from lancedb.table import Table

TABLE = "context_chunks"
CURRENT = "current"
BUILD_PREFIX = "build-"
# Part of the tag: raised when the table's layout or its indices change.
LAYOUT_VERSION = 1
OnProgress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True)
class ShardChunks:
    """A shard's chunks.

    Attributes:
        fingerprint: of the table that they come from.
        batches: streams them; columns `chunk_id`, `doc_id`, `content_hash`, `text`, `n_tokens` and `vector`, which is a
            fixed-size list of float32. Other columns are ignored.
    """

    fingerprint: str
    batches: Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a sync did. `changed` is False when nothing was written; `tag` is then the tag that was in force."""

    tag: str
    added: list[str]
    replaced: list[str]
    deleted: list[str]
    n_rows: int
    changed: bool


class ContextStore:
    """The table at a folder or object store address."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def sync(
        self,
        shards: Mapping[str, ShardChunks],
        *,
        settings: Mapping[str, object],
        exact_row_limit: int = 100_000,
        full_text_tokenizer: FullTextTokenizer = "icu",
        on_progress: OnProgress | None = None,
    ) -> SyncReport:
        """Bring the table to these shards, index and tag it.

        Args:
            shards: all shards that the table is to hold, by name.
            settings: JSON-ready; what else the build depends on (encoder, chunk length). Part of the tag.
            exact_row_limit: up to this many rows no vector index is built.
            full_text_tokenizer: what cuts texts and queries into words.
            on_progress: called with a shard's name and its number of rows once they are in.

        Raises:
            ValueError: no shard has a chunk, or the chunks' columns are not those of `ShardChunks`.
        """
        tag = build_tag(
            {name: s.fingerprint for name, s in shards.items()}, settings, exact_row_limit, full_text_tokenizer
        )
        table = self._table_for_writing(_table_schema(shards))
        present = fingerprints_in(table)
        wanted = _without_empty(shards, present)
        versions = _versions(table)
        in_force = tag in versions and versions[tag] == versions.get(CURRENT)
        replaced = sorted(s for s in wanted if s in present and present[s] != [wanted[s].fingerprint])
        added = sorted(s for s in wanted if s not in present)
        deleted = sorted(s for s in present if s not in wanted)
        if in_force and not (replaced or added or deleted):
            return SyncReport(tag=tag, added=[], replaced=[], deleted=[], n_rows=table.count_rows(), changed=False)
        if tag in versions:
            _restore(table, versions[tag])
        else:
            _delete_shards(table, deleted)
            n_new = 0
            for shard in [*replaced, *added]:
                n_rows = _replace_shard(table, shard, wanted[shard])
                n_new += n_rows
                if on_progress:
                    on_progress(shard, n_rows)
            build_indices(table, n_new, exact_row_limit, full_text_tokenizer)
            table.tags.create(tag, table.version)
        _put_in_force(table, tag)
        n_rows = table.count_rows()
        return SyncReport(tag=tag, added=added, replaced=replaced, deleted=deleted, n_rows=n_rows, changed=True)

    def is_built(self) -> bool:
        """Whether there is a build to open."""
        with faults_named(self.uri):
            if not store_path(self.uri).exists():
                return False
        table = _open_table(self._connect())
        return table is not None and CURRENT in _versions(table)

    def current_tag(self) -> str:
        """The tag in force.

        Raises:
            ValueError: the index was never built.
        """
        versions = _versions(self._open())
        if CURRENT not in versions:
            raise self._never_built()
        return next(tag for tag in _builds(versions) if versions[tag] == versions[CURRENT])

    def open(self, tag: str | None = None) -> PinnedIndex:
        """The build of a tag, of the current one where None, for reading.

        Raises:
            ValueError: the index was never built, or has no such tag; names those that it has.
        """
        tag = tag or self.current_tag()
        table = self._open()
        known = _builds(_versions(table))
        if tag not in known:
            raise ValueError(f"the retrieval index at {self.uri!r} has no build {tag!r}; it has {', '.join(known)}")
        table.checkout(tag)
        return PinnedIndex(tag, table)

    def _connect(self) -> "DBConnection":
        import lancedb

        return lancedb.connect(self.uri, storage_options=client_options(self.uri))

    def _open(self) -> "Table":
        # Connecting to a local folder would make it.
        with faults_named(self.uri):
            if not store_path(self.uri).exists():
                raise self._never_built()
        table = _open_table(self._connect())
        if table is None:
            raise self._never_built()
        return table

    def _table_for_writing(self, schema: pa.Schema) -> "Table":
        """The table with this schema; emptied where its vectors had another dimension. Older versions stay readable."""
        store = self._connect()
        table = _open_table(store)
        if table is not None and table.schema == schema:
            return table
        return store.create_table(TABLE, schema=schema, mode="create" if table is None else "overwrite")

    def _never_built(self) -> ValueError:
        return ValueError(f"the retrieval index at {self.uri!r} was never built: run job build_index")


def _open_table(store: "DBConnection") -> "Table | None":
    try:
        return store.open_table(TABLE)
    except ValueError:  # the library's way to say that there is none
        return None


def build_tag(
    fingerprints: Mapping[str, str],
    settings: Mapping[str, object],
    exact_row_limit: int,
    full_text_tokenizer: FullTextTokenizer,
) -> str:
    """The tag of the build that `sync` makes of shards with these fingerprints."""
    content = {
        "layout": LAYOUT_VERSION,
        "shards": dict(fingerprints),
        "settings": dict(settings),
        "exact_row_limit": exact_row_limit,
        "full_text_tokenizer": full_text_tokenizer,
    }
    return BUILD_PREFIX + digest(content)


def _table_schema(shards: Mapping[str, ShardChunks]) -> pa.Schema:
    """The table's columns; the vectors' dimension is read off the first batch."""
    first = next((batch for shard in shards.values() for batch in shard.batches()), None)
    if first is None:
        raise ValueError("there is nothing to index: no shard has a chunk; materialize context_chunks first")
    _check_columns(first.schema)
    strings = ["chunk_id", "doc_id", "shard", "shard_fingerprint", "content_hash", "text"]
    dimension = first.schema.field("vector").type.list_size
    return pa.schema(
        [(name, pa.string()) for name in strings]
        + [("n_tokens", pa.int32()), ("vector", pa.list_(pa.float32(), dimension))]
    )


def _check_columns(schema: pa.Schema) -> None:
    needed = ["chunk_id", "doc_id", "content_hash", "text", "n_tokens", "vector"]
    missing = [name for name in needed if name not in schema.names]
    if missing:
        raise ValueError(f"context chunks lack the columns {missing}; they have {schema.names}")
    vector = schema.field("vector").type
    if not pa.types.is_fixed_size_list(vector):
        raise ValueError(f"column 'vector' of the context chunks is {vector}; store it as a fixed-size list of float32")


def _without_empty(shards: Mapping[str, ShardChunks], present: Mapping[str, object]) -> dict[str, ShardChunks]:
    """The shards that have rows: an empty one leaves no trace in the table that says it is up to date."""
    return {
        name: chunks for name, chunks in shards.items() if name in present or any(b.num_rows for b in chunks.batches())
    }


def _replace_shard(table: "Table", shard: str, chunks: ShardChunks) -> int:
    """Put a shard's rows in the place of its old ones; the new ones appear in one commit. Returns their number."""
    _delete_shards(table, [shard])
    schema = table.schema
    n_rows = 0
    failure: list[Exception] = []

    def rows() -> Iterator[pa.RecordBatch]:
        nonlocal n_rows
        try:
            for batch in chunks.batches():
                n_rows += batch.num_rows
                yield _table_rows(batch, schema, shard, chunks.fingerprint)
        except Exception as error:
            failure.append(error)
            raise

    try:
        table.add(pa.RecordBatchReader.from_batches(schema, rows()))
    except Exception:
        # The library wraps what a stream raises in an error of its own.
        if failure:
            raise failure[0] from None
        raise
    return n_rows


def _table_rows(batch: pa.RecordBatch, schema: pa.Schema, shard: str, fingerprint: str) -> pa.RecordBatch:
    """A batch of chunks in the table's columns and types."""
    _check_columns(batch.schema)
    constant = {"shard": shard, "shard_fingerprint": fingerprint}
    columns = [
        pa.repeat(pa.scalar(constant[field.name]), batch.num_rows)
        if field.name in constant
        else batch.column(field.name).cast(field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _delete_shards(table: "Table", shards: Sequence[str]) -> None:
    for names in slices(list(shards), IDS_PER_FILTER):
        condition = is_in("shard", names)
        if table.count_rows(condition):  # deleting nothing would still write a version
            table.delete(condition)


def _versions(table: "Table") -> dict[str, int]:
    """Table version of every tag."""
    return {tag: int(entry["version"]) for tag, entry in table.tags.list().items()}


def _builds(versions: Mapping[str, int]) -> list[str]:
    """Tags of builds, oldest first."""
    return sorted((tag for tag in versions if tag.startswith(BUILD_PREFIX)), key=lambda tag: versions[tag])


def _restore(table: "Table", version: int) -> None:
    """Make the table's newest version equal to an older one."""
    if table.version != version:
        table.checkout(version)
        table.restore()


def _put_in_force(table: "Table", tag: str) -> None:
    versions = _versions(table)
    set_tag = table.tags.update if CURRENT in versions else table.tags.create
    set_tag(CURRENT, versions[tag])
