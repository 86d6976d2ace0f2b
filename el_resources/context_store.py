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
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from el_resources.object_stores import client_options, faults_named, store_path
from el_resources.shard_tables import digest

if TYPE_CHECKING:
    from lancedb.db import DBConnection
    from lancedb.table import Table

TABLE = "context_chunks"
CURRENT = "current"
BUILD_PREFIX = "build-"
# Part of the tag: raised when the table's layout or its indices change.
LAYOUT_VERSION = 1
# `optimize` also removes versions older than this, and raises when one of them is tagged.
KEEP_VERSIONS = timedelta(days=365 * 100)
# Rows fetched beyond k, so that own chunks and ties at the cut seldom ask for a second search.
FETCH_MARGIN = 32
# Bound what one search returns and how long one SQL condition gets.
QUERIES_PER_SEARCH = 512
IDS_PER_FILTER = 1000
# From this share of new rows on, the vector index is trained again rather than added to.
RETRAIN_SHARE = 0.5
# Partitions of the vector index that are searched; more find more and cost more. Not tuned on real vectors yet.
PROBES = 32

IDENTITY_COLUMNS = ["chunk_id", "doc_id", "shard", "content_hash"]
RESULT_COLUMNS = [*IDENTITY_COLUMNS, "text", "n_tokens"]
RESULT_SCHEMA: dict[str, type[pl.DataType]] = {
    "query_index": pl.Int64,
    **dict.fromkeys([*IDENTITY_COLUMNS, "text"], pl.String),
    "n_tokens": pl.Int32,
    "similarity": pl.Float32,
}

T = TypeVar("T")
Fetch = Callable[[list[int], int], pl.DataFrame]
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
        on_progress: OnProgress | None = None,
    ) -> SyncReport:
        """Bring the table to these shards, index and tag it.

        Args:
            shards: all shards that the table is to hold, by name.
            settings: JSON-ready; what else the build depends on (encoder, chunk length). Part of the tag.
            exact_row_limit: up to this many rows no vector index is built.
            on_progress: called with a shard's name and its number of rows once they are in.

        Raises:
            ValueError: no shard has a chunk, or the chunks' columns are not those of `ShardChunks`.
        """
        tag = build_tag({name: s.fingerprint for name, s in shards.items()}, settings, exact_row_limit)
        table = self._table_for_writing(_table_schema(shards))
        present = _fingerprints(table)
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
            _build_indices(table, n_new, exact_row_limit)
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

    def open(self, tag: str | None = None) -> "PinnedIndex":
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


class PinnedIndex:
    """One tagged build, read-only.

    Search results hold `query_index` (the query's position in the call), `chunk_id`, `doc_id`, `shard`, `content_hash`,
    `text`, `n_tokens` and `similarity`, at most k rows a query, sorted by (`query_index`, `similarity` descending,
    `chunk_id`).
    """

    def __init__(self, tag: str, table: "Table") -> None:
        self.tag = tag
        self.n_rows: int = table.count_rows()
        self.dimension: int = table.schema.field("vector").type.list_size
        self._table = table

    def search_dense(self, vectors: NDArray[np.float32], k: int, *, exclude_doc_id: str | None = None) -> pl.DataFrame:
        """The k chunks nearest to each row of `vectors`, by cosine; a zero vector is near to nothing.

        Args:
            exclude_doc_id: a document whose chunks are passed over; k counts what is left.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(
                f"query vectors have shape {vectors.shape}, the index needs (queries, {self.dimension}); "
                "encode queries with the encoder of the chunks"
            )
        if not np.isfinite(vectors).all():
            raise ValueError("a query vector holds a value that is not finite; encode it again")
        queries = np.flatnonzero(vectors.any(axis=1)).tolist()
        return self._search(lambda batch, limit: self._nearest(vectors[batch], limit), queries, k, exclude_doc_id)

    def search_text(self, queries: Sequence[str], k: int, *, exclude_doc_id: str | None = None) -> pl.DataFrame:
        """The k chunks with the highest BM25 score of each query, whose words are plain terms whatever they spell.

        A chunk without any of the words is no result. `similarity` is the score.
        """
        spoken = [index for index, query in enumerate(queries) if query.strip()]
        return self._search(
            lambda batch, limit: self._matching([queries[index] for index in batch], limit), spoken, k, exclude_doc_id
        )

    def chunk_ids(self) -> pl.DataFrame:
        """`chunk_id`, `doc_id`, `shard` and `content_hash` of every row, by `chunk_id`."""
        return _frame(self._table.search().select(IDENTITY_COLUMNS).to_arrow()).sort("chunk_id")

    def shard_fingerprints(self) -> dict[str, str]:
        """Fingerprint of the table that each shard's rows come from; shards without rows are not in it."""
        return {shard: "+".join(found) for shard, found in _fingerprints(self._table).items()}

    def texts(self, chunk_ids: Sequence[str]) -> pl.DataFrame:
        """`chunk_id`, `doc_id`, `shard`, `content_hash` and `text` of the given chunks, in the given order.

        Raises:
            ValueError: a chunk is not in this build.
        """
        wanted = pl.DataFrame({"chunk_id": list(chunk_ids)}, schema={"chunk_id": pl.String})
        unique = wanted["chunk_id"].unique(maintain_order=True).to_list()
        columns = [*IDENTITY_COLUMNS, "text"]
        found = [
            _frame(self._table.search().where(_is_in("chunk_id", ids)).select(columns).limit(len(ids)).to_arrow())
            for ids in _slices(unique, IDS_PER_FILTER)
        ]
        rows = pl.concat(found) if found else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        missing = wanted.join(rows, on="chunk_id", how="anti")["chunk_id"].to_list()
        if missing:
            raise ValueError(
                f"build {self.tag!r} has no chunk {missing[0]!r} ({len(missing)} of {len(wanted)} missing)"
            )
        return wanted.join(rows, on="chunk_id", how="left", maintain_order="left")

    def _search(self, fetch: "Fetch", queries: list[int], k: int, exclude_doc_id: str | None) -> pl.DataFrame:
        """Fetch more than k rows a query, drop the excluded document's, and fetch more where that decides too little.

        Filtering here rather than in the table costs no scan of its `doc_id` column, which a filtered search does.
        """
        if k < 1:
            raise ValueError(f"k={k} finds nothing; use 1 or more")
        settled = [pl.DataFrame(schema=RESULT_SCHEMA)]
        limit = k + FETCH_MARGIN
        while queries:
            unsettled: list[int] = []
            for batch in _slices(queries, QUERIES_PER_SEARCH):
                hits = fetch(batch, limit).with_columns(query_index=_lookup(batch, "query_index"))
                open_queries = [] if limit >= self.n_rows else _unsettled(hits, limit, k, exclude_doc_id)
                settled.append(_best(hits.filter(~pl.col("query_index").is_in(open_queries)), k, exclude_doc_id))
                unsettled += open_queries
            queries, limit = unsettled, limit * 4
        return pl.concat(settled).sort("query_index", "similarity", "chunk_id", descending=[False, True, False])

    def _nearest(self, vectors: NDArray[np.float32], limit: int) -> pl.DataFrame:
        query = self._table.search(vectors, vector_column_name="vector").distance_type("cosine").nprobes(PROBES)
        found = _frame(query.select([*RESULT_COLUMNS, "_distance"]).limit(limit).to_arrow())
        # LanceDB numbers the queries only where there are several.
        number = pl.col("query_index") if "query_index" in found.columns else pl.lit(0)
        return found.select(
            number.cast(pl.Int64).alias("query_index"), *RESULT_COLUMNS, similarity=1 - pl.col("_distance")
        )

    def _matching(self, queries: list[str], limit: int) -> pl.DataFrame:
        from lancedb.query import MatchQuery

        columns = [*RESULT_COLUMNS, "_score"]
        found = [
            _frame(self._table.search(MatchQuery(query, "text")).select(columns).limit(limit).to_arrow())
            for query in queries
        ]
        return pl.concat(
            hits.select(pl.lit(index, pl.Int64).alias("query_index"), *RESULT_COLUMNS, similarity="_score")
            for index, hits in enumerate(found)
        )


def _open_table(store: "DBConnection") -> "Table | None":
    try:
        return store.open_table(TABLE)
    except ValueError:  # the library's way to say that there is none
        return None


def build_tag(fingerprints: Mapping[str, str], settings: Mapping[str, object], exact_row_limit: int) -> str:
    """The tag of the build that `sync` makes of shards with these fingerprints."""
    content = {
        "layout": LAYOUT_VERSION,
        "shards": dict(fingerprints),
        "settings": dict(settings),
        "exact_row_limit": exact_row_limit,
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


def _fingerprints(table: "Table") -> dict[str, list[str]]:
    """Fingerprints under which each shard's rows stand in the table: one, unless a writer died or raced another."""
    rows = _frame(table.search().select(["shard", "shard_fingerprint"]).to_arrow())
    grouped = rows.group_by("shard").agg(pl.col("shard_fingerprint").unique().sort())
    return dict(grouped.iter_rows())


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
    for names in _slices(list(shards), IDS_PER_FILTER):
        condition = _is_in("shard", names)
        if table.count_rows(condition):  # deleting nothing would still write a version
            table.delete(condition)


def _build_indices(table: "Table", n_new: int, exact_row_limit: int) -> None:
    """Compact the table, then bring its indices to all rows.

    A small table's are built afresh, so that its search results follow from its content and not from its history.
    """
    from lancedb.index import FTS, BTree, IvfFlat

    table.optimize(cleanup_older_than=KEEP_VERSIONS)
    n_rows = table.count_rows()
    existing = {column: index.name for index in table.list_indices() for column in index.columns}
    if n_rows <= exact_row_limit:
        for column in {"vector", "chunk_id"} & existing.keys():
            table.drop_index(existing[column])
        table.create_index("text", config=FTS(), replace=True)
        return
    if "text" not in existing:
        table.create_index("text", config=FTS())
    if "chunk_id" not in existing:
        table.create_index("chunk_id", config=BTree())
    if "vector" not in existing or n_new > RETRAIN_SHARE * n_rows:
        table.create_index("vector", config=IvfFlat(distance_type="cosine"), replace=True)


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


def _unsettled(hits: pl.DataFrame, limit: int, k: int, exclude_doc_id: str | None) -> list[int]:
    """Queries whose k best may still change by fetching more.

    They got all rows that they asked for, and after exclusion fewer than k are left, or the k-th ties with the last.
    """
    last = hits.group_by("query_index").agg(pl.len().alias("n_fetched"), pl.col("similarity").min().alias("last"))
    kth = (
        _best(hits, k, exclude_doc_id)
        .group_by("query_index")
        .agg(pl.len().alias("n_left"), pl.col("similarity").min().alias("kth"))
    )
    open_ended = (pl.col("n_left").fill_null(0) < k) | (pl.col("kth") <= pl.col("last"))
    return (
        last.join(kth, on="query_index", how="left")
        .filter((pl.col("n_fetched") >= limit) & open_ended)
        .get_column("query_index")
        .sort()
        .to_list()
    )


def _best(hits: pl.DataFrame, k: int, exclude_doc_id: str | None) -> pl.DataFrame:
    """The k best rows of each query without the excluded document."""
    kept = hits if exclude_doc_id is None else hits.filter(pl.col("doc_id") != exclude_doc_id)
    return (
        kept.sort("query_index", "similarity", "chunk_id", descending=[False, True, False])
        .group_by("query_index", maintain_order=True)
        .head(k)
        .select(RESULT_SCHEMA.keys())
    )


def _lookup(values: list[int], column: str) -> pl.Expr:
    """`values[column]`, row by row."""
    return pl.lit(pl.Series(values, dtype=pl.Int64)).gather(pl.col(column))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _is_in(column: str, values: Sequence[str]) -> str:
    """SQL condition that a column is one of some strings, whatever they hold."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def _slices(values: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
