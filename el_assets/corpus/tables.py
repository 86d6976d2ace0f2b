"""The tables of the corpus and what the retrieval index depends on."""

from collections.abc import Mapping

import polars as pl

from el_assets.tables.columns import CHUNK_ID, CONTENT_HASH, SCORES, Column, TableSchema
from el_assets.tables.description import LONG_MODEL, ROW_BOUNDS, Drafted, Recipe, Table

# Of `retrieval_index`, which is no table of this project's: LanceDB keeps it.
INDEX_SETTINGS = ("encoder", "exact_search_rows", "full_text_tokenizer")
INDEX_INPUTS = ("context_chunks",)

DOC_ID = Column(pl.String(), "Document's stable id: the source's own, else a hash of the text.")

DOCUMENTS: TableSchema = {
    "doc_id": DOC_ID,
    "text": Column(pl.String(), "The document's text; empty if it was set aside."),
    "source": Column(pl.String(), "Corpus URI that the document came from."),
    "url": Column(pl.String(), "Address of the original, if the source gives one."),
    "license": Column(pl.String(), "Licence of the text, if the source gives one."),
    "n_chars": Column(pl.Int64(), "Characters of the text as read."),
    "content_hash": CONTENT_HASH,
    "set_aside_reason": Column(
        pl.String(),
        "Why the document is not used: empty, whitespace, nul, special_tokens, exact_duplicate, or for a row that "
        "cannot be read not_utf8, not_json, not_an_object, no_text, text_not_text, line_too_long, text_too_long; "
        "null if it is used.",
    ),
    "set_aside_detail": Column(pl.String(), "Line or row and what is wrong with it, if the row cannot be read."),
}

CONTEXT_CHUNKS: TableSchema = {
    "chunk_id": CHUNK_ID,
    "doc_id": DOC_ID,
    "start_char": Column(pl.Int64(), "First character of the chunk in its document."),
    "end_char": Column(pl.Int64(), "Character after the chunk's last."),
    "text": Column(pl.String(), "The chunk: the document's characters [start_char, end_char)."),
    "n_tokens": Column(pl.Int32(), "Scorer tokens of the chunk by itself."),
    "content_hash": CONTENT_HASH,
    "vector": Column(SCORES, "Retrieval embedding, unit length (zeros if the chunk has no known token)."),
}


def _set_aside_by(table: Drafted) -> Mapping[str, str]:
    """Return the tokenizer whose control tokens set a document aside, if any does."""
    if table.settings.special_tokens_in_text != "set_aside":
        return {}
    return {"set_aside_by": table.roles.fingerprint("tokenizer")}


TABLES = (
    Table(
        name="documents",
        job="build_index",
        columns=DOCUMENTS,
        recipe=Recipe(
            code_version="2",
            settings=("special_tokens_in_text", "text_column"),
            is_read_from_source=True,
            source_settings=(*ROW_BOUNDS, "corpus", *LONG_MODEL),
            file_settings=("text_column",),
            further=_set_aside_by,
            words={"set_aside_by": lambda was, now: "texts that spell control tokens are set aside by another rule"},
        ),
    ),
    Table(
        name="context_chunks",
        job="build_index",
        columns=CONTEXT_CHUNKS,
        recipe=Recipe(
            code_version="1",
            inputs=("documents",),
            settings=("chunk_tokens", "long_chunks"),
            models=("tokenizer", "encoder"),
        ),
    ),
)
