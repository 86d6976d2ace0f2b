import numpy as np
import polars as pl
import pytest

from el_assets.corpus.chunks import chunks_table, with_vectors
from el_assets.corpus.documents import text_hash
from el_assets.tables.schemas import conform
from el_resources.models.text_splitting import Span

DOCUMENTS = pl.DataFrame({"doc_id": ["d@1", "e"], "text": ["Größe. Zwei.", "alone"]})
SPANS = [[Span(0, 6, 3), Span(7, 12, 2)], [Span(0, 5, 1)]]


def test_chunks_are_what_their_spans_cut_in_characters() -> None:
    chunks = chunks_table(DOCUMENTS, SPANS)
    columns = ["doc_id", "start_char", "end_char", "text", "n_tokens"]
    assert chunks.select(columns).rows() == [
        ("d@1", 0, 6, "Größe.", 3),
        ("d@1", 7, 12, "Zwei.", 2),
        ("e", 0, 5, "alone", 1),
    ]
    assert chunks["content_hash"].to_list() == [text_hash("Größe."), text_hash("Zwei."), text_hash("alone")]


def test_an_id_names_document_place_and_content() -> None:
    chunks = chunks_table(DOCUMENTS, SPANS)
    assert chunks["chunk_id"].to_list()[1] == f"d@1@7-{text_hash('Zwei.')[:8]}"
    assert chunks["chunk_id"].n_unique() == 3
    other = chunks_table(DOCUMENTS.with_columns(text=pl.col("text").str.replace("Zwei", "Drei")), SPANS)
    assert [a == b for a, b in zip(chunks["chunk_id"], other["chunk_id"], strict=True)] == [True, False, True]


def test_vectors_stand_beside_their_chunks() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    table = conform(with_vectors(chunks_table(DOCUMENTS, SPANS), vectors), "context_chunks")
    assert table["vector"].to_list()[2] == pytest.approx([0.6, 0.8])
    assert table.schema["vector"] == pl.List(pl.Float32)


def test_a_shard_without_chunks_is_an_empty_table() -> None:
    chunks = chunks_table(DOCUMENTS.clear(), [])
    table = conform(with_vectors(chunks, np.zeros((0, 256), dtype=np.float32)), "context_chunks")
    assert table.height == 0


def test_every_document_needs_its_spans() -> None:
    with pytest.raises(ValueError, match="shorter"):
        chunks_table(DOCUMENTS, SPANS[:1])
