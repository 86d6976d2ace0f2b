"""Where instruction samples come from: one interface over every kind of pool.

A sample is a long context, an instruction about it and the response. `open_instructions(uri)` reads the scheme and
hands out the source. Every source guarantees what el_resources.corpus_source guarantees of a corpus: deterministic
shards whose names are partition keys and never become paths, fingerprints of content and reading, bounded memory, and
nothing read on opening. Beside that:
- Every row is yielded. A row that is not a whole sample comes with its reason, what is wrong in words, and no texts.
- Texts are as stored, not trimmed and not shortened, and can be encoded as UTF-8. What a model's window holds, and
  which ids repeat, is decided downstream.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from el_resources.tokenization import ModelTokenizer


@dataclass(frozen=True, kw_only=True)
class SourceSample:
    """One sample as its source has it.

    Attributes:
        source_id: the source's own id, None if it has none; ids may repeat.
        context: what the instruction is about; may be empty.
        n_turns: exchanges of a user and an assistant in the source. The texts are those of the first.
        set_aside_reason: why the row is no sample; its texts are empty then.
        detail: what is wrong, in words, where a row is set aside.
        evidence: `near`, `far` or `absent`, where the source knows how far what the response needs stands from it.
        evidence_distance_tokens: tokens of context and instruction between the end of the needed passage and the start
            of the response, without what joins the parts; None where the passage is absent or unknown.
    """

    source_id: str | None
    context: str
    instruction: str
    response: str
    n_turns: int = 1
    license: str = ""
    set_aside_reason: str | None = None
    detail: str = ""
    evidence: str | None = None
    evidence_distance_tokens: int | None = None


class InstructionSource(Protocol):
    """A pool of samples cut into shards."""

    @property
    def uri(self) -> str: ...

    def shards(self) -> list[str]:
        """Names of the shards, which are partition keys."""
        ...

    def passed_over(self) -> Mapping[str, str]:
        """Return the reasons of the listed files that are no shards (hidden, pointers, …), by path."""
        ...

    def shard_fingerprint(self, shard: str) -> str:
        """Hash of the shard's content and of what decides how it is read, but for the tokenizer."""
        ...

    def origin(self, shard: str) -> Mapping[str, str]:
        """Where the shard comes from, to be recorded: `source`, its URI; `file` and `revision` where it has them."""
        ...

    def samples(self, shard: str) -> Iterator[SourceSample]:
        """The shard's samples in their stored order; raises CorruptShardError where its bytes are not its format."""
        ...


def open_instructions(
    uri: str,
    *,
    tokenizer: Callable[[], ModelTokenizer],
    samples_per_kind: int,
    windows: Callable[[], tuple[int, int]],
    hub_endpoint: str = "",
) -> InstructionSource:
    """The pool that `uri` names: `python-docs-questions:`, `parquet:PLACE`, `jsonl:PLACE` or `hf:OWNER/NAME/CONFIG`.

    Tokenizer and numbers are for the embedded pool, which is made to measure; files are read as they are.

    Args:
        uri: PLACE is a file, folder or glob, on this machine or at an address such as `s3://bucket/prefix`.
        tokenizer: gives the tokenizer of the long-window model. Called when samples are first asked for.
        samples_per_kind: samples with near, with far and with absent evidence, of each so many.
        windows: tokens that the short-window and the long-window model read at once; called for the embedded pool only,
            so that opening files never resolves a model.
        hub_endpoint: address of the Hugging Face hub or a mirror (EL_HUB_ENDPOINT); empty means the library's own.
    """
    scheme, colon, location = uri.partition(":")
    if not colon or scheme not in _SCHEMES:
        raise ValueError(
            f"instructions {uri!r} have no known scheme; use one of {', '.join(f'{name}:' for name in _SCHEMES)}"
            " (files need theirs too, as in jsonl:data/*.jsonl.gz)"
        )
    # The readers import this module's types, so they are imported when their scheme is named.
    if scheme != "python-docs-questions":
        from el_resources.file_schemes import open_files
        from el_resources.instruction_files import FileInstructions

        return FileInstructions(files=open_files(uri, hub_endpoint))
    from el_resources.python_docs_questions import PythonDocsQuestions

    if location:
        raise ValueError(
            f"instructions {uri!r}: python-docs-questions: is one pool, write it with nothing after the colon"
        )
    short_window, long_window = windows()
    return PythonDocsQuestions(
        tokenizer=tokenizer, samples_per_kind=samples_per_kind, short_window=short_window, long_window=long_window
    )


_SCHEMES = ("python-docs-questions", "parquet", "jsonl", "hf")
