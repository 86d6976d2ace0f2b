"""The ways to search that benchmarks/retrieval.py compares."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from el_assets.corpus.chunks import with_vectors
from el_assets.entropylong.candidates import Search
from el_resources.models.text_encoder import (
    REFERENCE_IDF,
    TextEncoder,
    TokenTableEncoder,
    open_encoder,
    reference_embeddings,
    reference_idf,
    token_signs,
)
from el_resources.store.context_store import ContextStore
from el_resources.store.index_rows import ShardChunks
from el_resources.store.pinned_index import PinnedIndex

RRF_CONSTANT = 60  # of reciprocal-rank fusion: 1 / (60 + rank), its authors' value
FUSED_RESULTS = 100  # taken of each list


@dataclass
class Retriever:
    """A way to search the chunks, with the time that it took.

    Attributes:
        search: answers queries by their texts: (texts, k) -> columns of a PinnedIndex's result.
        passages_per_second: encoding speed; None if nothing is encoded.
        seconds, n_queries: time spent in searches, and queries answered, so far.
    """

    name: str
    search: Callable[[list[str], int], pl.DataFrame]
    passages_per_second: float | None = None
    seconds: float = 0.0
    n_queries: int = 0

    def bound_to(self, texts: list[str]) -> Search:
        """Return a timed search that takes these queries by their numbers."""

        def search(numbers: NDArray[np.int64], k: int) -> pl.DataFrame:
            started = time.perf_counter()
            found = self.search([texts[number] for number in numbers], k)
            self.seconds += time.perf_counter() - started
            self.n_queries += len(numbers)
            return found.with_columns(query_index=pl.Series(numbers).gather(found["query_index"]).cast(pl.Int64))

        return search


def encoders() -> Iterable[TextEncoder]:
    """Yield the parts of the shipped encoder, each as an encoder of its own, and last the shipped encoder itself."""
    embeddings, idf = reference_embeddings(), reference_idf()
    yield TokenTableEncoder("mean of embeddings", embeddings)
    yield TokenTableEncoder("IDF mean of embeddings", embeddings * idf[:, None])
    common = np.average(embeddings, axis=0, weights=np.exp(-idf))  # a token is as common as its IDF is low
    yield TokenTableEncoder("IDF mean, common component removed", (embeddings - common) * idf[:, None])
    yield TokenTableEncoder("TF-IDF by token signs", token_signs(len(idf)) * idf[:, None])
    yield open_encoder(REFERENCE_IDF)


def dense_retriever(encoder: TextEncoder, chunks: pl.DataFrame, folder: Path) -> tuple[Retriever, PinnedIndex]:
    """Return a cosine search with an encoder, and the index that is made for it in the folder."""
    started = time.perf_counter()
    vectors = encoder.encode(chunks["text"].to_list())
    seconds = time.perf_counter() - started
    store = ContextStore(str(folder))
    frame = with_vectors(chunks, vectors)
    store.sync(
        {
            "all": ShardChunks(
                fingerprint="1",
                n_rows=frame.height,
                batches=lambda: iter(frame.to_arrow().to_batches(max_chunksize=8192)),
            )
        },
        settings={},
    )
    index = store.open()
    retriever = Retriever(
        encoder.name,
        lambda texts, k: index.search_dense(encoder.encode(texts), k),
        passages_per_second=chunks.height / seconds,
    )
    return retriever, index


def fused(first: Retriever, second: Retriever) -> Retriever:
    """Return a retriever that fuses two others by reciprocal rank."""

    def search(texts: list[str], k: int) -> pl.DataFrame:
        lists = [one.search(texts, max(k, FUSED_RESULTS)) for one in (first, second)]
        ranked = [
            found.with_columns(
                fusion=1.0 / (RRF_CONSTANT + 1 + pl.int_range(pl.len()).over("query_index")),
            )
            for found in lists
        ]
        return (
            pl.concat(ranked)
            .group_by("query_index", "chunk_id")
            .agg(pl.col("doc_id", "shard", "content_hash", "text").first(), similarity=pl.col("fusion").sum())
            .sort("query_index", "similarity", "chunk_id", descending=[False, True, False])
            .group_by("query_index", maintain_order=True)
            .head(k)
        )

    return Retriever(f"{first.name} + {second.name}, fused by rank", search)


def random_retriever(chunks: pl.DataFrame, seed: int) -> Retriever:
    """Return a retriever that draws new random chunks for every query."""
    generator = np.random.default_rng(seed)

    def search(texts: list[str], k: int) -> pl.DataFrame:
        drawn = [
            chunks[generator.choice(chunks.height, size=min(k, chunks.height), replace=False)].select(
                pl.lit(query).alias("query_index"),
                "chunk_id",
                "doc_id",
                "shard",
                "content_hash",
                "text",
                similarity=0.0,
            )
            for query in range(len(texts))
        ]
        return pl.concat(drawn)

    return Retriever("random chunks", search)
