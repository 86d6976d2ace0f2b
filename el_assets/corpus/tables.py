"""The tables of the corpus, and the inputs and settings of the retrieval index."""

from collections.abc import Mapping

import polars as pl

from el_assets.tables.columns import CHUNK_ID, CONTENT_HASH, SCORES, Column, TableSchema
from el_assets.tables.description import LONG_MODEL, ROW_BOUNDS, Drafted, Recipe, Table

# Settings and inputs of `retrieval_index`, which LanceDB keeps and which is not a table of this project.
INDEX_SETTINGS = ("encoder", "exact_search_rows", "full_text_tokenizer")
INDEX_INPUTS = ("context_chunks",)

DOC_ID = Column(pl.String(), "Document's stable id: the source's own, else a hash of the text.")

DOCUMENTS: TableSchema = {
    "doc_id": DOC_ID,
    "text": Column(pl.String(), "The document's text; empty if it was set aside."),
    "source": Column(pl.String(), "Address of the corpus from which the document was read."),
    "url": Column(pl.String(), "Address of the original, if the source gives one."),
    "license": Column(pl.String(), "Licence of the text, if the source gives one."),
    "n_chars": Column(pl.Int64(), "Number of characters of the text as read."),
    "content_hash": CONTENT_HASH,
    "set_aside_reason": Column(
        pl.String(),
        "Reason why the document is not used: empty, whitespace, nul, special_tokens, exact_duplicate; for a row that "
        "cannot be read not_utf8, not_json, not_an_object, no_text, text_not_text, line_too_long, text_too_long; "
        "null if it is used.",
    ),
    "set_aside_detail": Column(pl.String(), "Line or row in the file and its fault, if the row cannot be read."),
}

CONTEXT_CHUNKS: TableSchema = {
    "chunk_id": CHUNK_ID,
    "doc_id": DOC_ID,
    "start_char": Column(pl.Int64(), "Position of the chunk's first character in its document, from 0."),
    "end_char": Column(pl.Int64(), "Position after the chunk's last character in its document."),
    "text": Column(pl.String(), "The chunk: the document's characters [start_char, end_char)."),
    "n_tokens": Column(pl.Int32(), "Number of tokens of the chunk, by the scorer's tokenizer and without BOS."),
    "content_hash": CONTENT_HASH,
    "vector": Column(SCORES, "Retrieval embedding, unit length (zeros if the chunk has no known token)."),
}


def _set_aside_by(table: Drafted) -> Mapping[str, str]:
    """Return the tokenizer that decides which texts spell control tokens, if such texts are set aside."""
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
            words={
                "set_aside_by": lambda was, now: (
                    "the rule by which texts that spell control tokens are set aside has changed"
                )
            },
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
