"""Open the source that a URI names: a corpus of documents, or a pool of instruction samples.

The readers are imported when their scheme is named, so that loading this module loads none of their libraries.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from el_resources.addresses import secrets_kept, without_secrets
from el_resources.models.tokenization import ModelTokenizer
from el_resources.sources.contracts import CORPUS_SCHEMES, POOL_SCHEMES, CorpusSource, InstructionSource
from el_resources.sources.instruction_columns import PoolReading
from el_resources.sources.mixture import MixedCorpus, TokenCounter, is_mixture, parse_mixture
from el_resources.sources.row_limits import RowLimits

if TYPE_CHECKING:
    from el_resources.sources.file_formats import FileFormat
    from el_resources.sources.shard_files import ShardFiles


@secrets_kept()
def open_corpus(
    uri: str,
    *,
    text_column: str | None = None,
    hub_endpoint: str = "",
    counter: TokenCounter | None = None,
    limits: RowLimits | None = None,
) -> CorpusSource:
    """Return the source that `uri` names: `python-docs:`, `parquet:PLACE`, `jsonl:PLACE` or `hf:OWNER/NAME/CONFIG`.

    Args:
        uri: PLACE is a file, folder or glob, on this machine or at an address such as `s3://bucket/prefix`.
            el_resources.sources.mixture explains how several sources and their options are written.
        text_column: column or key that holds the text (EL_TEXT_COLUMN); empty means `text`.
        hub_endpoint: address of the Hugging Face hub or a mirror (EL_HUB_ENDPOINT); empty means the library's own.
        counter: counter of tokens; needed if a source has a budget of tokens.
        limits: the longest rows that are read; None for the defaults.

    Example:
        >>> len(open_corpus("python-docs:").shards()) > 0
        True
    """
    if not is_mixture(uri):
        return _open_source(uri, text_column, hub_endpoint, limits)
    sources = [
        (spec, _open_source(spec.uri, spec.text_column or text_column, hub_endpoint, limits))
        for spec in parse_mixture(uri)
    ]
    return MixedCorpus(uri=without_secrets(uri), sources=sources, counter=counter)


def _open_source(uri: str, text_column: str | None, hub_endpoint: str, limits: RowLimits | None) -> CorpusSource:
    scheme, colon, location = uri.partition(":")
    if not colon or scheme not in CORPUS_SCHEMES:
        raise ValueError(
            f"corpus {uri!r} has no known scheme; use one of {', '.join(f'{name}:' for name in CORPUS_SCHEMES)}"
            " (files need one too, as in parquet:data/*.parquet; put scheme and path in double quotes if the path has "
            "' + ' or ' [' in it)"
        )
    if scheme == "python-docs":
        return _open_python_docs(uri, location, text_column)
    from el_resources.sources.corpus_files import DEFAULT_TEXT_COLUMN, FileCorpus

    files, column = _open_files(uri, hub_endpoint, "EL_CORPUS"), text_column or DEFAULT_TEXT_COLUMN
    return FileCorpus(files=files, text_column=column, limits=limits or RowLimits())


def _open_files(uri: str, hub_endpoint: str, variable: str) -> "ShardFiles":
    """Return the files of a `parquet:`, `jsonl:` or `hf:` URI; nothing is read yet.

    The URI opens them with its credentials, and names them without.

    Args:
        variable: the setting that names the source, for errors.
    """
    scheme, _, location = uri.partition(":")
    uri = without_secrets(uri)
    if scheme == "hf":
        from el_resources.sources.hub_files import HubFiles

        return HubFiles(uri=uri, location=location, variable=variable, endpoint=hub_endpoint)
    from el_resources.sources.shard_files import LocatedFiles

    assert scheme in ("parquet", "jsonl"), f"{uri!r} has no scheme of files"
    file_format: FileFormat = "parquet" if scheme == "parquet" else "jsonl"
    return LocatedFiles(uri=uri, location=location, variable=variable, file_format=file_format)


def _open_python_docs(uri: str, location: str, text_column: str | None) -> CorpusSource:
    from el_resources.sources.python_docs import PythonDocs

    if location:
        raise ValueError(f"corpus {uri!r}: python-docs: is one fixed corpus; write nothing after the colon")
    if text_column:
        warnings.warn(f"text column {text_column!r} is not used: python-docs: has no columns", stacklevel=3)
    return PythonDocs()


@secrets_kept()
def open_instructions(
    uri: str,
    *,
    tokenizer: Callable[[], ModelTokenizer],
    samples_per_kind: int,
    windows: Callable[[], tuple[int, int]],
    hub_endpoint: str = "",
    reading: PoolReading | None = None,
    limits: RowLimits | None = None,
) -> InstructionSource:
    """Return the pool that `uri` names.

    `uri` is `python-docs-questions:`, `parquet:PLACE`, `jsonl:PLACE` or `hf:OWNER/NAME/CONFIG`. Tokenizer, windows and
    the number of samples are for the embedded pool, which is made to fit them; files do not depend on them.

    Args:
        uri: PLACE is a file, folder or glob, on this machine or at an address such as `s3://bucket/prefix`.
        tokenizer: returns the tokenizer of the long-window model; called when samples are first read.
        samples_per_kind: number of samples of each kind: with near, with far and with absent evidence.
        windows: returns the tokens that the short-window and the long-window model read at once; called for the
            embedded pool only, so that opening files never resolves a model.
        hub_endpoint: address of the Hugging Face hub or a mirror (EL_HUB_ENDPOINT); empty means the library's own.
        reading: settings by which files are read; None reads the first exchange under the usual names.
        limits: the longest rows that are read; None for the defaults.

    Example:
        >>> from el_resources.models.causal_lm import ModelChoice
        >>> from el_resources.settings import Settings
        >>> long = ModelChoice.long(Settings.load({}))
        >>> pool = open_instructions(
        ...     "python-docs-questions:", tokenizer=long.tokenizer, samples_per_kind=2, windows=lambda: (512, 2048)
        ... )
        >>> pool.shards()
        ['python-docs-questions-0', 'python-docs-questions-1']
    """
    scheme, colon, location = uri.partition(":")
    if not colon or scheme not in POOL_SCHEMES:
        raise ValueError(
            f"instructions {uri!r} have no known scheme; use one of {', '.join(f'{name}:' for name in POOL_SCHEMES)}"
            " (files need one too, as in jsonl:data/*.jsonl.gz)"
        )
    if scheme != "python-docs-questions":
        from el_resources.sources.instruction_files import FileInstructions

        files = _open_files(uri, hub_endpoint, "EL_INSTRUCTIONS")
        return FileInstructions(files=files, reading=reading or PoolReading(), limits=limits or RowLimits())
    from el_resources.sources.python_docs_questions import PythonDocsQuestions

    if location:
        raise ValueError(
            f"instructions {uri!r}: python-docs-questions: is one fixed pool; write nothing after the colon"
        )
    if reading is not None and reading.names_columns:
        warnings.warn(
            "instruction_columns and keep_columns are not used: python-docs-questions: has no columns", stacklevel=2
        )
    short_window, long_window = windows()
    return PythonDocsQuestions(
        tokenizer=tokenizer, samples_per_kind=samples_per_kind, short_window=short_window, long_window=long_window
    )
