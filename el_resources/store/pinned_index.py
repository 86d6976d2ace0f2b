"""One build of the retrieval index, for reading: exact or approximate dense search, full-text search, and texts by id.

Algorithm: a search fetches more than k rows for each query. If the k-th row ties with the last one fetched, rows that
were not fetched could belong to the k best, so the search is repeated with four times as many rows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from el_resources.store.passing_faults import Again

if TYPE_CHECKING:
    from lancedb.table import Table

# Rows fetched beyond k, so that ties seldom need a second search.
FETCH_MARGIN = 32
# Bounds of the rows that one search returns, and of the length of one SQL condition.
QUERIES_PER_SEARCH = 512
IDS_PER_FILTER = 1000
# A query searches a quarter of the vector index's partitions, within these bounds; more find more and cost more.
FEWEST_PROBES, MOST_PROBES = 32, 128
ROWS_PER_PARTITION = 4096  # as LanceDB makes them


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


class PinnedIndex:
    """One tagged build, read-only.

    Search results hold `query_index` (the query's position in the call), `chunk_id`, `doc_id`, `shard`, `content_hash`,
    `text`, `n_tokens` and `similarity`, at most k rows a query, sorted by (`query_index`, `similarity` descending,
    `chunk_id`).

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from el_resources.store.context_store import ContextStore, ShardChunks
        >>> names = ["chunk_id", "doc_id", "content_hash", "text", "n_tokens", "vector"]
        >>> rows = [("d@0", "d", "h1", "to read", 2, [1.0, 0.0]), ("d@8", "d", "h2", "to write", 2, [0.0, 1.0])]
        >>> chunks = pl.DataFrame(rows, names, orient="row").cast({"vector": pl.Array(pl.Float32, 2)}).to_arrow()
        >>> shard = ShardChunks(fingerprint="1", n_rows=2, batches=lambda: iter(chunks.to_batches()))
        >>> with TemporaryDirectory() as folder:
        ...     added = ContextStore(folder).sync({"a": shard}, settings={}).added
        ...     added, ContextStore(folder).open().search_text(["write"], k=1)["chunk_id"].to_list()
        (['a'], ['d@8'])
    """

    def __init__(self, tag: str, table: "Table", again: Again) -> None:
        self.tag = tag
        self.n_rows: int = again("counting rows", lambda _: table.count_rows())
        self.dimension: int = table.schema.field("vector").type.list_size
        self._table = table
        self._again = again

    def _rows(self, query: Any) -> pl.DataFrame:
        return self._again("reading the index", lambda _: _frame(query.to_arrow()))

    def search_dense(self, vectors: NDArray[np.float32], k: int) -> pl.DataFrame:
        """Return the k chunks nearest to each row of `vectors`, by cosine; a zero vector has none.

        Raises:
            ValueError: the vectors have another dimension than the index, or a value that is not finite.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(
                f"query vectors have shape {vectors.shape}, the index needs (queries, {self.dimension}); "
                "encode queries with the encoder of the chunks"
            )
        if not np.isfinite(vectors).all():
            raise ValueError(
                "the encoder gave a query vector with a value that is not finite; choose another encoder (EL_ENCODER)"
            )
        queries = np.flatnonzero(vectors.any(axis=1)).tolist()
        return self._search(lambda batch, limit: self._nearest(vectors[batch], limit), queries, k)

    def search_text(self, queries: Sequence[str], k: int) -> pl.DataFrame:
        """Return the k chunks with the highest BM25 score of each query.

        A query is split into words as the chunks were (see ContextStore.sync), and no word is read as an operator.
        Every result contains at least one of the words. `similarity` is the score.
        """
        with_words = [index for index, query in enumerate(queries) if query.strip()]
        return self._search(
            lambda batch, limit: self._matching([queries[index] for index in batch], limit), with_words, k
        )

    def chunk_ids(self) -> pl.DataFrame:
        """Return `chunk_id`, `doc_id`, `shard` and `content_hash` of every row, sorted by `chunk_id`."""
        return self._rows(self._table.search().select(IDENTITY_COLUMNS)).sort("chunk_id")

    def shard_fingerprints(self) -> dict[str, str]:
        """Return for each shard with rows the fingerprint of the table that they come from."""
        rows = self._rows(self._table.search().select(["shard", "shard_fingerprint"]))
        grouped = rows.group_by("shard").agg(pl.col("shard_fingerprint").unique().sort().str.join("+"))
        return dict(grouped.iter_rows())

    def texts(self, chunk_ids: Sequence[str]) -> pl.DataFrame:
        """Return `chunk_id`, `doc_id`, `shard`, `content_hash` and `text` of the given chunks, in the given order.

        Raises:
            ValueError: a chunk is not in this build.
        """
        wanted = pl.DataFrame({"chunk_id": list(chunk_ids)}, schema={"chunk_id": pl.String})
        unique = wanted["chunk_id"].unique(maintain_order=True).to_list()
        columns = [*IDENTITY_COLUMNS, "text"]
        found = [
            self._rows(self._table.search().where(is_in("chunk_id", ids)).select(columns).limit(len(ids)))
            for ids in slices(unique, IDS_PER_FILTER)
        ]
        rows = pl.concat(found) if found else pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        missing = wanted.join(rows, on="chunk_id", how="anti")["chunk_id"].to_list()
        if missing:
            raise ValueError(
                f"build {self.tag!r} has no chunk {missing[0]!r} ({len(missing)} of {len(wanted)} missing); "
                "materialize candidate_contexts again, which takes chunks of the newest build"
            )
        return wanted.join(rows, on="chunk_id", how="left", maintain_order="left")

    def _search(self, fetch: "Fetch", queries: list[int], k: int) -> pl.DataFrame:
        """Return the k best rows of each query; see the module for the algorithm.

        Args:
            fetch: returns the best rows of a batch of queries, up to a limit each; `query_index` counts in the batch.
            queries: indices of the queries that have something to search for.
        """
        if k < 1:
            raise ValueError(f"k={k} asks for no chunks; use 1 or more")
        settled = [pl.DataFrame(schema=RESULT_SCHEMA)]
        limit = k + FETCH_MARGIN
        while queries:
            tied: list[int] = []
            for batch in slices(queries, QUERIES_PER_SEARCH):
                # Fetch some more.
                hits = fetch(batch, limit).with_columns(query_index=_lookup(batch, "query_index"))
                # Find open ties.
                still_tied = [] if limit >= self.n_rows else _tied_at_the_cut(hits, limit, k)
                # Keep the best.
                settled.append(_best(hits.filter(~pl.col("query_index").is_in(still_tied)), k))
                tied += still_tied
            # Widen the rest.
            queries, limit = tied, limit * 4
        return pl.concat(settled).sort("query_index", "similarity", "chunk_id", descending=[False, True, False])

    def _nearest(self, vectors: NDArray[np.float32], limit: int) -> pl.DataFrame:
        query = self._table.search(vectors, vector_column_name="vector").distance_type("cosine")
        query = query.nprobes(probes(self.n_rows))
        found = self._rows(query.select([*RESULT_COLUMNS, "_distance"]).limit(limit))
        # LanceDB numbers the queries only if there are several.
        number = pl.col("query_index") if "query_index" in found.columns else pl.lit(0)
        return found.select(
            number.cast(pl.Int64).alias("query_index"), *RESULT_COLUMNS, similarity=1 - pl.col("_distance")
        )

    def _matching(self, queries: list[str], limit: int) -> pl.DataFrame:
        from lancedb.query import MatchQuery

        columns = [*RESULT_COLUMNS, "_score"]
        found = [
            self._rows(self._table.search(MatchQuery(query, "text")).select(columns).limit(limit)) for query in queries
        ]
        return pl.concat(
            hits.select(pl.lit(index, pl.Int64).alias("query_index"), *RESULT_COLUMNS, similarity="_score")
            for index, hits in enumerate(found)
        )


def probes(n_rows: int) -> int:
    """Return the number of partitions of the vector index that a query searches."""
    return min(MOST_PROBES, max(FEWEST_PROBES, n_rows // ROWS_PER_PARTITION // 4))


def _tied_at_the_cut(hits: pl.DataFrame, limit: int, k: int) -> list[int]:
    """Return the queries that got all `limit` rows and whose k-th row ties with the last one."""
    similarity = pl.col("similarity")
    return (
        hits.group_by("query_index")
        .agg(n_fetched=pl.len(), last=similarity.min(), kth=similarity.top_k(k).min())
        .filter((pl.col("n_fetched") >= limit) & (pl.col("kth") <= pl.col("last")))
        .get_column("query_index")
        .sort()
        .to_list()
    )


def _best(hits: pl.DataFrame, k: int) -> pl.DataFrame:
    """Return the k best rows of each query."""
    return (
        hits.sort("query_index", "similarity", "chunk_id", descending=[False, True, False])
        .group_by("query_index", maintain_order=True)
        .head(k)
        .select(RESULT_SCHEMA.keys())
    )


def _lookup(values: list[int], column: str) -> pl.Expr:
    """Return `values[column]`, row by row."""
    return pl.lit(pl.Series(values, dtype=pl.Int64)).gather(pl.col(column))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def is_in(column: str, values: Sequence[str]) -> str:
    """Return the SQL condition that a column is one of some strings, with their quotes escaped."""
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def slices(values: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
