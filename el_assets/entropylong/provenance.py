"""Source and licence of the documents from which packed segments are taken."""

from typing import TypedDict

import polars as pl

from el_resources.store.shard_tables import MissingTableError, ShardTables


class Origin(TypedDict):
    """Address of the source, and the licence (empty if the source gives none)."""

    source: str
    license: str


def document_of(chunk_id: str) -> str:
    """Return the id of a chunk's document; a chunk's id is DOCUMENT@START-HASH."""
    return chunk_id.rpartition("@")[0]


def document_origins(tables: ShardTables, shard: str, pairs: pl.DataFrame) -> dict[tuple[str, str], Origin]:
    """Return the origin of every root and context of a shard's `verified_pairs`, by (shard, document).

    Raises:
        MissingTableError: a document, or the table of its shard, no longer exists.
    """
    roots = pairs.select("doc_id", shard=pl.lit(shard))
    contexts = pairs.select(doc_id=pl.col("chunk_id").str.replace(r"@[^@]*$", ""), shard="chunk_shard")
    found: dict[tuple[str, str], Origin] = {}
    for (name,), wanted in pl.concat([roots, contexts]).unique().group_by("shard"):
        # Look documents up.
        documents = tables.scan("documents", str(name)).select("doc_id", "source", "license")
        rows = documents.filter(pl.col("doc_id").is_in(wanted["doc_id"].to_list())).collect()
        for doc_id, source, license_ in rows.iter_rows():
            found[str(name), doc_id] = Origin(source=source, license=license_)
        # Refuse vanished documents.
        gone = set(wanted["doc_id"]) - set(rows["doc_id"])
        if gone:
            raise MissingTableError(
                f"{len(gone)} documents that are quoted are gone from shard {name!r}, the first is {min(gone)!r}; "
                "run job build_index, then build_sequences"
            )
    return found
