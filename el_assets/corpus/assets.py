"""The corpus and its retrieval index, as assets."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import dagster as dg
import polars as pl
import pyarrow as pa

from el_assets.corpus.chunks import chunks_table, with_vectors
from el_assets.corpus.documents import document_facts, documents_table, usable
from el_assets.entropylong.diagnosis import why_nothing
from el_assets.partitions import corpus_shards, registered_shards
from el_assets.tables.progress import progress
from el_assets.tables.schemas import dagster_schema
from el_assets.tables.shard_assets import shard_asset, with_seen_settings
from el_assets.tables.shard_runs import Made, materialize_shards, unreadable
from el_resources.addresses import without_secrets
from el_resources.listed_names import listed
from el_resources.models.causal_lm import ModelChoice, ScorerTokens
from el_resources.models.long_texts import encode_whole
from el_resources.models.text_encoder import TextEncoder, open_encoder
from el_resources.models.text_splitting import Span, TextSplitter
from el_resources.settings import Settings
from el_resources.sources.bad_rows import within_share
from el_resources.sources.contracts import CorpusSource, CorruptShardError, SourceDocument
from el_resources.sources.opening import open_corpus
from el_resources.sources.row_limits import RowLimits
from el_resources.store.context_store import ContextStore
from el_resources.store.index_rows import ShardChunks
from el_resources.store.index_tags import build_tag
from el_resources.store.passing_faults import Tell, silent
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp, refuse_mixed_settings

SPLIT_DOCUMENTS = 64
BATCH_ROWS = 4096
# Most shards that a printed command names; for more of them the command is for all shards.
SHARDS_NAMED = 6
INDEX_COLUMNS = ("chunk_id", "doc_id", "content_hash", "text", "n_tokens", "vector")


corpus_asset = partial(shard_asset, group="corpus", partitions=corpus_shards)


@corpus_asset("documents", ["source_corpus"], kinds={"parquet"})
def documents(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per source document of the shard, in the source's order.

    Documents that cannot be used stay as rows without text, with a `set_aside_reason`: the text is empty, only
    whitespace or has NUL characters, it is an exact duplicate within the shard, or it spells a control token (if
    `special_tokens_in_text` is `set_aside`). Rows of the file that cannot be read stay too, with their line.

    If a file cannot be read, or the share of its unreadable rows exceeds `bad_rows_max_share`, the shard keeps its
    earlier table, or gets an empty one if there is none. Then the check `sources_are_readable` fails and names the file
    and the cause; the other shards go on.
    """
    source = open_corpus_of(settings)

    @cache
    def spelled_control_token() -> Callable[[str], str | None]:
        if settings.special_tokens_in_text == "as_text":
            return lambda text: None
        return ModelChoice.long(settings).tokenizer().spelled_control_token

    def make(shard: str) -> Made:
        origin = dict(source.origin(shard))
        try:
            readable = _readable(source, shard, origin, settings)
            table = documents_table(readable, origin["source"], spelled_control_token())
        except CorruptShardError as error:
            context.log.error(f"{error}; repair or remove the file. The other shards go on")
            empty = documents_table([], origin["source"])
            return Made(frame=empty, facts={"documents": 0, "origin": origin, **unreadable(error, settings)})
        return Made(frame=table, facts={**document_facts(table), "origin": origin})

    return materialize_shards(context, settings, make, source=source)


def _readable(
    source: CorpusSource, shard: str, origin: Mapping[str, str], settings: Settings
) -> Iterator[SourceDocument]:
    """Yield a shard's documents; raise CorruptShardError if too many rows could not be read."""
    path, max_share = origin.get("file", shard), settings.bad_rows_max_share
    return within_share(source.documents(shard), max_share=max_share, shard=shard, path=path)


@corpus_asset("context_chunks", [documents, "text_encoder"], kinds={"parquet"})
def context_chunks(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """One row per retrieval chunk: at most `chunk_tokens` tokens of the scorer, cut at text boundaries, and its vector.

    The EntropyLong paper does not state its chunk size. The related paper NExtLong joins lines into chunks of at most
    2,048 characters.
    """
    tables = ShardTables(settings.store)

    @cache
    def tools() -> tuple[TextSplitter, TextEncoder]:
        tokenizer = ModelChoice.long(settings).tokenizer()
        splitter = TextSplitter(tokenizer.backend, settings.chunk_tokens, tokenizer.count_batch)
        encoder = open_encoder(settings.encoder, device=settings.device, trust_remote_code=settings.trust_remote_code)
        return splitter, encoder

    def make(shard: str) -> Made:
        splitter, encoder = tools()
        texts = usable(tables.scan("documents", shard)).select("doc_id", "text").collect()
        spans: list[list[Span]] = []
        with progress(context, f"split {shard}", texts.height, "documents") as advance:
            for block in texts["text"].to_frame().iter_slices(SPLIT_DOCUMENTS):
                spans += splitter.split_all(block["text"].to_list())
                advance(block.height)
        chunks = chunks_table(texts, spans)
        with progress(context, f"encode {shard}", chunks.height, "chunks") as advance:
            vectors, beyond = encode_whole(encoder, chunks["text"].to_list(), settings.long_chunks, advance)
        if beyond.n_longer:
            what = (
                "each vector is the mean over the parts of its chunk"
                if settings.long_chunks == "split"
                else "the rest is not encoded"
            )
            context.log.warning(f"{shard}: {beyond.described(encoder.name)}; {what}")
        facts = {
            "chunks": chunks.height,
            "tokens": int(chunks["n_tokens"].sum()),
            "encoder": encoder.name,
            **beyond.facts(),
        }
        return Made(frame=with_vectors(chunks, vectors), facts=facts)

    return materialize_shards(context, settings, make)


# The pool has one slot, so that runs of one instance wait in the queue; a lock of the index holds back all others.
@dg.asset(group_name="corpus", kinds={"lancedb"}, deps=[context_chunks], code_version="1", pool="index_writer")
@with_seen_settings("retrieval_index")
def retrieval_index(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult:
    """LanceDB index of the chunks of every registered shard: vectors for cosine search, full text for BM25.

    It is updated shard by shard: changed shards are replaced, removed ones are deleted. Each build gets a tag that
    depends on its content, and `candidate_contexts` records the tag of the build that it searched. Building the index
    again over the same chunks changes nothing. No other asset writes to it.
    """
    tables = ShardTables(settings.store)
    registered = registered_shards(context.instance)
    stamps = tables.stamps("context_chunks", registered)
    _refuse_damaged(tables, [shard for shard in registered if shard not in stamps])
    if not stamps:
        raise ValueError(f"no shard has context_chunks in store {settings.store!r}; materialize context_chunks first")
    refuse_mixed_settings(stamps)
    n_chunks = sum(int(stamp.facts["rows"]) for stamp in stamps.values())
    if not n_chunks:
        why = why_nothing({"documents": tables.stamps("documents", stamps).values()})
        raise ValueError(f"there is nothing to index: {why or 'the documents have no chunks'}")
    shards = {
        shard: ShardChunks(
            fingerprint=stamp.fingerprint,
            n_rows=int(stamp.facts["rows"]),
            batches=partial(index_batches, tables, shard),
        )
        for shard, stamp in stamps.items()
    }
    started = time.monotonic()
    with progress(context, "sync index", n_chunks, "chunks") as advance:
        report = context_store(settings, tell=context.log.warning).sync(
            shards,
            settings=_index_settings(stamps),
            exact_row_limit=settings.exact_search_rows,
            full_text_tokenizer=settings.full_text_tokenizer,
            on_progress=lambda shard, n_rows: advance(n_rows),
        )
    context.log.info(
        f"retrieval_index: {report.n_rows:,} chunks, tag {report.tag}, {'changed' if report.changed else 'up to date'}"
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.n_rows,
            "dagster/uri": without_secrets(str(tables.store / "context_store")),
            "dagster/column_schema": dagster_schema("context_chunks"),
            "seconds": round(time.monotonic() - started, 3),
            "settings": dg.MetadataValue.json(dict(next(iter(stamps.values())).settings)),
            "index_tag": report.tag,
            "skipped": not report.changed,
            "shards": len(shards),
            "shards_added": len(report.added),
            "shards_replaced": len(report.replaced),
            "shards_deleted": len(report.deleted),
            "encoder": without_secrets(settings.encoder),
            "full_text_tokenizer": settings.full_text_tokenizer,
        },
        data_version=dg.DataVersion(report.tag),
    )


def context_store(settings: Settings, *, tell: Tell = silent) -> ContextStore:
    """Return the retrieval index of the settings' store."""
    return ContextStore(str(ShardTables(settings.store).store / "context_store"), tell=tell)


def index_tag(settings: Settings, chunks: Mapping[str, Stamp]) -> str:
    """Return the tag of the build over these shards of `context_chunks`."""
    fingerprints = {shard: stamp.fingerprint for shard, stamp in chunks.items()}
    return build_tag(fingerprints, _index_settings(chunks), settings.exact_search_rows, settings.full_text_tokenizer)


def _refuse_damaged(tables: ShardTables, without_stamp: Sequence[str]) -> None:
    """Raise ValueError if chunks of a shard are damaged, since the index, and so other shards, would lose them."""
    damaged = {shard: damage for shard in without_stamp if (damage := tables.damage("context_chunks", shard))}
    if damaged:
        shard, damage = next(iter(damaged.items()))
        raise ValueError(
            f"context_chunks of {listed(list(damaged))} are damaged ({shard!r}: {damage}), so the index would lose "
            f"their rows; make them again with `{_mending(list(damaged))}`"
        )


def _mending(shards: Sequence[str]) -> str:
    """Return the command that makes the chunks of damaged shards again; it skips tables that are up to date."""
    named = [f"--shard {shlex.quote(shard)}" for shard in shards] if len(shards) <= SHARDS_NAMED else []
    return " ".join(["python -m el_assets run --select index", *named])


def _index_settings(chunks: Mapping[str, Stamp]) -> dict[str, str]:
    return {"encoder": next(iter(chunks.values())).settings["encoder"]}


def index_batches(tables: ShardTables, shard: str) -> Iterator[pa.RecordBatch]:
    """Yield a shard's chunks as Arrow batches of the index's columns."""
    frame = tables.scan("context_chunks", shard).select(INDEX_COLUMNS).collect()
    if frame.is_empty():
        return
    dimension = len(frame["vector"][0])
    shaped = frame.with_columns(pl.col("vector").list.to_array(dimension), shard=pl.lit(shard))
    yield from shaped.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches(max_chunksize=BATCH_ROWS)


def open_corpus_of(settings: Settings) -> CorpusSource:
    """Return the corpus that the settings name. Raises ValueError (see open_corpus)."""
    return open_corpus(
        settings.corpus,
        text_column=settings.text_column or None,
        hub_endpoint=settings.hub_endpoint,
        counter=ScorerTokens(ModelChoice.long(settings)),
        limits=RowLimits.of(line_mib_max=settings.line_mib_max, document_chars_max=settings.document_chars_max),
    )
