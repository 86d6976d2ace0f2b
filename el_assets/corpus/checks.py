"""Checks of the corpus and its index."""

import dagster as dg
import polars as pl

from el_assets.corpus.assets import context_chunks, context_store, documents, retrieval_index
from el_assets.corpus.documents import usable
from el_assets.partitions import registered_shards
from el_assets.tables.shard_checks import all_shards_check, result, shard_check
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables


def sources_are_readable(tables: ShardTables, shard: str) -> list[str]:
    """Every shard's source file could be read in its format."""
    problem = tables.require_stamp("documents", shard).facts.get("unreadable")
    return [str(problem)] if problem else []


def document_ids_are_unique(tables: ShardTables, shard: str) -> list[str]:
    """No two documents of a shard have the same id."""
    ids = tables.read("documents", shard, ["doc_id"])["doc_id"]
    return [f"id {doc_id!r} occurs more than once" for doc_id in ids.filter(ids.is_duplicated()).unique().sort()]


def texts_are_unique_over_shards(tables: ShardTables, shards: list[str]) -> dict[str, list[str]]:
    """No text is in two shards; otherwise the same text can become a root twice."""
    used = usable(tables.scan_many("documents", shards)).select("doc_id", "shard", "content_hash").collect()
    twins = used.filter(pl.col("content_hash").is_duplicated()).group_by("content_hash").agg("doc_id", "shard")
    return {hash_[:8]: [f"{ids} in {where}"] for hash_, ids, where in twins.sort("content_hash").iter_rows()}


def chunks_equal_their_documents(tables: ShardTables, shard: str) -> list[str]:
    """Every chunk's text is the text of its document at [start_char, end_char)."""
    texts = usable(tables.scan("documents", shard)).select("doc_id", document="text")
    chunks = tables.scan("context_chunks", shard).drop("vector").join(texts, on="doc_id", how="left")
    length = pl.col("end_char") - pl.col("start_char")
    differs = pl.col("document").str.slice(pl.col("start_char"), length).ne_missing(pl.col("text"))
    return [f"chunk {chunk_id!r} differs" for chunk_id in chunks.filter(differs).collect()["chunk_id"]]


@dg.asset_check(asset=retrieval_index, name="index_holds_every_chunk")
def index_holds_every_chunk(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
    """The index holds the chunks of every registered shard, once each, and no others."""
    tables = ShardTables(settings.store)
    stored = context_store(settings).open().chunk_ids().select("chunk_id", "shard")
    stamps = tables.stamps("context_chunks", registered_shards(context.instance))
    wanted = tables.scan_many("context_chunks", stamps).select("chunk_id", "shard").collect()
    found = {
        "missing": wanted.join(stored, on=["chunk_id", "shard"], how="anti")["chunk_id"].to_list(),
        "no longer in the corpus": stored.join(wanted, on=["chunk_id", "shard"], how="anti")["chunk_id"].to_list(),
        "twice": stored.filter(stored.is_duplicated())["chunk_id"].unique().to_list(),
    }
    return result(found, shards=len(stamps), remedy="Materialize retrieval_index again")


CHECKS = [
    shard_check(documents, sources_are_readable, remedy="Repair or remove the file, then materialize documents"),
    shard_check(
        documents,
        document_ids_are_unique,
        remedy="Report this as a fault of the code, which makes ids unique when it reads documents",
    ),
    all_shards_check(documents, texts_are_unique_over_shards, remedy="Deduplicate the corpus over its files"),
    shard_check(
        context_chunks,
        chunks_equal_their_documents,
        remedy="Run the job build_index for the shard; if it finds the shard up to date, with the setting force",
        blocking=True,
    ),
    index_holds_every_chunk,
]
