"""Rows of the retrieval table: the chunks of shards, added and deleted with many shards in a commit.

Every commit writes a manifest that lists all fragments of the table, so one commit a shard would cost time quadratic in
the number of shards. Here a commit takes shards up to `COMMIT_ROWS` rows, or more if that would make more than
`MOST_COMMITS` commits. The rows of a shard are always in one commit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from el_resources.store.pinned_index import IDS_PER_FILTER, is_in, slices

if TYPE_CHECKING:
    from lancedb.table import Table

COMMIT_ROWS = 2**17
# Approximate limit on the commits of a sync, however many rows it adds.
MOST_COMMITS = 64
# Batches of tiny shards are joined until they have this many rows.
BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class ShardChunks:
    """A shard's chunks.

    Attributes:
        fingerprint: fingerprint of the table that they come from.
        n_rows: number of chunks.
        batches: returns an iterator over them, with the columns `chunk_id`, `doc_id`, `content_hash`, `text`,
            `n_tokens` and `vector`, a fixed-size list of float32. Other columns are ignored.
    """

    fingerprint: str
    n_rows: int
    batches: Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Names of shards to add, replace and delete, sorted."""

    added: list[str]
    replaced: list[str]
    deleted: list[str]

    @classmethod
    def of(cls, table: "Table", wanted: Mapping[str, ShardChunks]) -> "Differences":
        """Compare the table's rows with the wanted shards by fingerprint and number of rows."""
        present = rows_in(table)
        right = {shard: {chunks.fingerprint: chunks.n_rows} for shard, chunks in wanted.items()}
        return cls(
            added=sorted(right.keys() - present.keys()),
            replaced=sorted(shard for shard in right.keys() & present.keys() if present[shard] != right[shard]),
            deleted=sorted(present.keys() - right.keys()),
        )

    @property
    def none(self) -> bool:
        return not (self.added or self.replaced or self.deleted)


def rows_in(table: "Table", condition: str | None = None) -> dict[str, dict[str, int]]:
    """Return for each shard in the table the number of its rows by fingerprint."""
    query = table.search().select(["shard", "shard_fingerprint"])
    rows = pl.from_arrow((query.where(condition) if condition else query).to_arrow())
    assert isinstance(rows, pl.DataFrame)
    found: dict[str, dict[str, int]] = {}
    for shard, fingerprint, count in rows.group_by("shard", "shard_fingerprint").len().iter_rows():
        found.setdefault(shard, {})[fingerprint] = count
    return found


def table_schema(shards: Mapping[str, ShardChunks]) -> pa.Schema:
    """Return the table's columns; the first batch gives the dimension of the vectors.

    Raises:
        ValueError: no shard has a chunk, or the chunks' columns are not those of `ShardChunks`.
    """
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
        raise ValueError(f"context chunks lack the columns {missing}; they have {schema.names}; materialize them again")
    vector = schema.field("vector").type
    if not pa.types.is_fixed_size_list(vector):
        raise ValueError(f"column 'vector' of the context chunks is {vector}; store it as a fixed-size list of float32")


def groups(shards: Sequence[str], wanted: Mapping[str, ShardChunks]) -> Iterator[list[str]]:
    """Yield groups of shards, in order, that are one commit each."""
    most = max(COMMIT_ROWS, sum(wanted[shard].n_rows for shard in shards) // MOST_COMMITS)
    group: list[str] = []
    n_rows = 0
    for shard in shards:
        if group and n_rows + wanted[shard].n_rows > most:
            yield group
            group, n_rows = [], 0
        group.append(shard)
        n_rows += wanted[shard].n_rows
    if group:
        yield group


def put_group(table: "Table", group: Sequence[str], wanted: Mapping[str, ShardChunks], attempt: int) -> None:
    """Add the rows of shards that the table does not hold yet, in one commit.

    Args:
        attempt: number of earlier attempts; one of them may have succeeded although its answer was lost.
    """
    if attempt:
        table.checkout_latest()
        held = {
            shard: counts
            for names in slices(list(group), IDS_PER_FILTER)
            for shard, counts in rows_in(table, is_in("shard", names)).items()
        }
        if held == {shard: {wanted[shard].fingerprint: wanted[shard].n_rows} for shard in group}:
            return
        delete_shards(table, list(held))
    schema, failure = table.schema, list[Exception]()

    def rows() -> Iterator[pa.RecordBatch]:
        try:
            yield from _joined(
                _table_rows(batch, schema, shard, wanted[shard].fingerprint)
                for shard in group
                for batch in wanted[shard].batches()
            )
        except Exception as error:
            failure.append(error)
            raise

    try:
        table.add(pa.RecordBatchReader.from_batches(schema, rows()))
    except Exception:
        # The library wraps an error of the stream in its own.
        if failure:
            raise failure[0] from None
        raise


def _joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of at least `BATCH_ROWS` rows; the last may be smaller."""
    held: list[pa.RecordBatch] = []
    n_rows = 0
    for batch in batches:
        held.append(batch)
        n_rows += batch.num_rows
        if n_rows >= BATCH_ROWS:
            yield pa.concat_batches(held)
            held, n_rows = [], 0
    if held:
        yield pa.concat_batches(held)


def _table_rows(batch: pa.RecordBatch, schema: pa.Schema, shard: str, fingerprint: str) -> pa.RecordBatch:
    """Return a batch of chunks in the table's columns and types."""
    _check_columns(batch.schema)
    constant = {"shard": shard, "shard_fingerprint": fingerprint}
    columns = [
        pa.repeat(pa.scalar(constant[field.name]), batch.num_rows)
        if field.name in constant
        else batch.column(field.name).cast(field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def delete_shards(table: "Table", shards: Sequence[str], attempt: int = 0) -> None:
    """Delete the rows of shards, as far as earlier attempts left any."""
    if attempt:
        table.checkout_latest()
    for names in slices(list(shards), IDS_PER_FILTER):
        condition = is_in("shard", names)
        if table.count_rows(condition):  # a deletion without rows would still write a version
            table.delete(condition)
