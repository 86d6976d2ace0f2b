"""Indices of the retrieval table: over vectors, ids, and the words of texts.

A full-text index splits texts and queries into words by the same rule. LanceDB's default splits at spaces and
punctuation only, so that a clause in Chinese, Japanese or Thai would be one word that no query contains; `icu` splits
these scripts by dictionary.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from el_resources.configuration.fields.entropylong import FullTextTokenizer

if TYPE_CHECKING:
    from lancedb.table import Table

# `optimize` also removes versions older than this, and raises when one of them is tagged.
KEEP_VERSIONS = timedelta(days=365 * 100)
# Share of new rows from which the vector index is trained again instead of extended.
RETRAIN_SHARE = 0.5


def build_indices(table: "Table", n_new: int, exact_row_limit: int, full_text: FullTextTokenizer) -> None:
    """Compact the table, then make its indices cover all rows.

    The indices of a small table are built anew, so that search results depend on its content and not on its history.
    """
    from lancedb.index import BTree, IvfFlat

    table.optimize(cleanup_older_than=KEEP_VERSIONS)
    n_rows = table.count_rows()
    existing = {column: index.name for index in table.list_indices() for column in index.columns}
    if n_rows <= exact_row_limit:
        for column in {"vector", "chunk_id"} & existing.keys():
            table.drop_index(existing[column])
        _build_full_text(table, existing.get("text"), full_text)
        return
    if existing.get("text") != _full_text_name(full_text):
        _build_full_text(table, existing.get("text"), full_text)
    if "chunk_id" not in existing:
        table.create_index("chunk_id", config=BTree())
    if "vector" not in existing or n_new > RETRAIN_SHARE * n_rows:
        table.create_index("vector", config=IvfFlat(distance_type="cosine"), replace=True)


def _full_text_name(tokenizer: FullTextTokenizer) -> str:
    """Return the name of a full-text index, which contains the splitter of its words; queries are split by the same."""
    return f"text_{tokenizer}"


def _build_full_text(table: "Table", existing: str | None, tokenizer: FullTextTokenizer) -> None:
    from lancedb.index import FTS

    if existing is not None:
        table.drop_index(existing)
    configs = {
        # Splits scripts without spaces by dictionary, and others as `simple` does.
        "icu": FTS(base_tokenizer="icu/split"),
        "simple": FTS(base_tokenizer="simple"),
        "whitespace": FTS(base_tokenizer="whitespace"),
        "ngram": FTS(
            base_tokenizer="ngram", ngram_min_length=2, ngram_max_length=3, stem=False, remove_stop_words=False
        ),
    }
    table.create_index("text", config=configs[tokenizer], name=_full_text_name(tokenizer))
