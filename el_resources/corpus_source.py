"""Sources of documents: one interface over every kind of corpus.

`open_corpus(uri)` returns the source of the URI's scheme. Every source guarantees:
- `shards()` is deterministic; its names are readable, unique and valid Dagster partition keys.
- A shard name is looked up, never joined to a path, so no name reaches a file outside the corpus.
- `shard_fingerprint()` depends on the shard's content and on how it is read, never on a file's name or times.
- `documents()` streams in bounded memory. A row whose text cannot be read is yielded with its reason, not dropped, and
  every string that is yielded can be encoded as UTF-8.
- Opening reads nothing: a path is looked at when shards are first asked for.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from el_resources.addresses import secrets_kept, without_secrets
from el_resources.listed_names import listed
from el_resources.row_limits import RowLimits

if TYPE_CHECKING:
    from el_resources.corpus_mixture import TokenCounter


@dataclass(frozen=True, kw_only=True)
class SourceDocument:
    """One document, as it is stored in its source.

    Attributes:
        source_id: the source's own stable id, None if it has none.
        text: the text; empty when it could not be decoded.
        set_aside_reason: reason for which the text could not be read (el_resources.corpus_files lists them). All other
            reasons for setting a document aside are found downstream.
        detail: the flaw in words, with the line or row, if the document is set aside.
    """

    source_id: str | None
    text: str
    url: str = ""
    license: str = ""
    set_aside_reason: str | None = None
    detail: str = ""


class CorpusSource(Protocol):
    """A corpus that is divided into shards."""

    @property
    def uri(self) -> str: ...

    def shards(self) -> list[str]:
        """Return the names of the shards, which are partition keys."""
        ...

    def passed_over(self) -> Mapping[str, str]:
        """Return the reasons of the listed files that are no shards (hidden, pointers, …), by path."""
        ...

    def shard_fingerprint(self, shard: str) -> str:
        """Return a hash of the shard's content and of everything that decides how it is read."""
        ...

    def origin(self, shard: str) -> Mapping[str, str]:
        """Return the shard's origin, to be recorded: `source`, its URI, and `file` and `revision` if it has them."""
        ...

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        """Yield the shard's documents in stored order; raise CorruptShardError if its bytes are not of its format."""
        ...


class CorruptShardError(ValueError):
    """A shard's file cannot be read as its format. Other shards are not affected."""

    def __init__(self, shard: str, path: str, reason: str) -> None:
        super().__init__(shard, path, reason)
        self.shard = shard
        self.path = without_secrets(path)
        self.reason = without_secrets(reason)

    def __str__(self) -> str:
        return f"shard {self.shard!r} cannot be read from {self.path}: {self.reason}"


@secrets_kept()
def open_corpus(
    uri: str,
    *,
    text_column: str | None = None,
    hub_endpoint: str = "",
    counter: "TokenCounter | None" = None,
    limits: RowLimits | None = None,
) -> CorpusSource:
    """Return the source that `uri` names: `python-docs:`, `parquet:PLACE`, `jsonl:PLACE` or `hf:OWNER/NAME/CONFIG`.

    Args:
        uri: PLACE is a file, folder or glob, on this machine or at an address such as `s3://bucket/prefix`.
            el_resources.corpus_mixture explains how several sources and their options are written.
        text_column: column or key that holds the text (EL_TEXT_COLUMN); empty means `text`.
        hub_endpoint: address of the Hugging Face hub or a mirror (EL_HUB_ENDPOINT); empty means the library's own.
        counter: counter of tokens; needed if a source has a budget of tokens.
        limits: the longest rows that are read; None for the defaults.
    """
    from el_resources.corpus_mixture import MixedCorpus, is_mixture, parse_mixture

    if not is_mixture(uri):
        return _open_source(uri, text_column, hub_endpoint, limits)
    sources = [
        (spec, _open_source(spec.uri, spec.text_column or text_column, hub_endpoint, limits))
        for spec in parse_mixture(uri)
    ]
    return MixedCorpus(uri=without_secrets(uri), sources=sources, counter=counter)


def _open_source(uri: str, text_column: str | None, hub_endpoint: str, limits: RowLimits | None) -> CorpusSource:
    scheme, colon, location = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        raise ValueError(
            f"corpus {uri!r} has no known scheme; use one of {', '.join(f'{name}:' for name in SCHEMES)}"
            " (files need theirs too, as in parquet:data/*.parquet; a path with ' + ' or ' [' in it that is one of "
            "several, or is not there yet, needs double quotes around scheme and path)"
        )
    # The readers import this module's types, so they are imported when their scheme is named.
    if scheme == "python-docs":
        return _open_python_docs(uri, location, text_column)
    from el_resources.corpus_files import DEFAULT_TEXT_COLUMN, FileCorpus
    from el_resources.file_schemes import open_files

    files, column = open_files(uri, hub_endpoint, "EL_CORPUS"), text_column or DEFAULT_TEXT_COLUMN
    return FileCorpus(files=files, text_column=column, limits=limits or RowLimits())


def unknown_shard(shard: str, uri: str, known: list[str]) -> ValueError:
    """Return the error for a shard that a source does not have."""
    return ValueError(f"source {uri!r} has no shard {shard!r}; it has {len(known)}: {listed(known)}")


def _open_python_docs(uri: str, location: str, text_column: str | None) -> CorpusSource:
    from el_resources.python_docs import PythonDocs

    if location:
        raise ValueError(f"corpus {uri!r}: python-docs: is one fixed corpus, write it with nothing after the colon")
    if text_column:
        warnings.warn(f"text column {text_column!r} is not used: python-docs: has no columns", stacklevel=3)
    return PythonDocs()


SCHEMES = ("python-docs", "parquet", "jsonl", "hf")
