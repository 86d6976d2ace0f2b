"""The `documents` table: stable ids, content hashes, and a reason for each document that is not used.

No row is dropped: a document that cannot be used stays as a row with its `set_aside_reason` and without text.
"""

from collections.abc import Callable, Iterable
from hashlib import blake2b

import polars as pl

from el_assets.tables.schemas import polars_schema
from el_resources.sources.contracts import SourceDocument


def documents_table(
    documents: Iterable[SourceDocument],
    source_uri: str,
    spelled_control_token: Callable[[str], str | None] = lambda text: None,
) -> pl.DataFrame:
    """Return the `documents` table of one shard, in the source's order.

    A document is an exact duplicate if its text is that of an earlier document of the shard. If two documents have the
    same source id, the second gets a piece of its text's hash as a suffix, and further ones a number as well. The cost
    is linear in the number of documents.
    """
    rows, seen_texts, ids = [], set(), _Ids()
    for document in documents:
        # Find a reason against it.
        content_hash = text_hash(document.text)
        reason = document.set_aside_reason or _reason(document.text)
        if reason is None and spelled_control_token(document.text) is not None:
            reason = "special_tokens"
        if reason is None and content_hash in seen_texts:
            reason = "exact_duplicate"
        if reason is None:
            seen_texts.add(content_hash)
        # Add the row.
        rows.append(
            {
                "doc_id": ids.unused(document.source_id or content_hash, content_hash[:8]),
                "text": "" if reason else document.text,
                "source": source_uri,
                "url": document.url,
                "license": document.license,
                "n_chars": len(document.text),
                "content_hash": content_hash,
                "set_aside_reason": reason,
                "set_aside_detail": document.detail or None,
            }
        )
    return pl.DataFrame(rows, schema=polars_schema("documents"), orient="row")


class _Ids:
    """The ids given in a shard so far: `id`, then `id#hash`, `id#hash-2`, `id#hash-3` and so on."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}

    def unused(self, wanted: str, text_hash: str) -> str:
        """Return the wanted id, with a suffix if it is used; numbers continue from the last, so none is tried twice."""
        doc_id = wanted
        if doc_id in self._used:
            doc_id = second = f"{wanted}#{text_hash}"
            while doc_id in self._used:
                self._numbers[second] = self._numbers.get(second, 1) + 1
                doc_id = f"{second}-{self._numbers[second]}"
        self._used.add(doc_id)
        return doc_id


def usable(documents: pl.LazyFrame) -> pl.LazyFrame:
    """Return the documents that are not set aside."""
    return documents.filter(pl.col("set_aside_reason").is_null())


def document_facts(table: pl.DataFrame) -> dict[str, object]:
    """Return the counts for the stamp: documents used, their characters, and documents set aside by reason."""
    reasons = table["set_aside_reason"].drop_nulls().value_counts().sort("set_aside_reason")
    return {
        "documents": table["set_aside_reason"].null_count(),
        "characters": int(table.filter(pl.col("set_aside_reason").is_null())["n_chars"].sum()),
        "set_aside": dict(reasons.iter_rows()),
    }


def text_hash(text: str) -> str:
    """Return the hash of a text: 32 hex digits.

    Example:
        >>> text_hash("An owl")
        '25525e40ede824688bf40ee28e04eafe'
    """
    return blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def _reason(text: str) -> str | None:
    if not text:
        return "empty"
    if not text.strip():
        return "whitespace"
    if "\0" in text:
        return "nul"
    return None
