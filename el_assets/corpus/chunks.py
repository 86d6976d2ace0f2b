"""The `context_chunks` table: documents cut into chunks at text boundaries, each with its text and its vector."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from el_assets.corpus.documents import text_hash
from el_assets.tables.schemas import polars_schema
from el_resources.models.text_splitting import Span


def chunks_table(documents: pl.DataFrame, spans: Sequence[Sequence[Span]]) -> pl.DataFrame:
    """Return the `context_chunks` table without its vectors.

    Args:
        documents: `doc_id` and `text` of the usable documents.
        spans: for each document, its chunks' character spans and token counts.

    Example:
        >>> documents = pl.DataFrame({"doc_id": ["d"], "text": ["One. Two."]})
        >>> chunks_table(documents, [[Span(0, 4, 2), Span(5, 9, 2)]])["text"].to_list()
        ['One.', 'Two.']
    """
    rows = [
        _chunk_row(doc_id, text[span.start_char : span.end_char], span)
        for (doc_id, text), document_spans in zip(documents.select("doc_id", "text").iter_rows(), spans, strict=True)
        for span in document_spans
    ]
    schema = polars_schema("context_chunks")
    del schema["vector"]
    return pl.DataFrame(rows, schema=schema, orient="row")


def with_vectors(chunks: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
    """Return the chunks with their vectors, [n_chunks, dimension]."""
    return chunks.with_columns(
        vector=pl.Series(vectors.astype(np.float32), dtype=pl.Array(pl.Float32, vectors.shape[1]))
    )


def _chunk_row(doc_id: str, text: str, span: Span) -> dict[str, object]:
    content_hash = text_hash(text)
    return {
        # Document, position and content, so that a chunk whose text changed gets a new id.
        "chunk_id": f"{doc_id}@{span.start_char}-{content_hash[:8]}",
        "doc_id": doc_id,
        "start_char": span.start_char,
        "end_char": span.end_char,
        "text": text,
        "n_tokens": span.n_tokens,
        "content_hash": content_hash,
    }
