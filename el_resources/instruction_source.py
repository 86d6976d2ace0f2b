"""Where instruction samples come from: one interface over every kind of pool.

A sample is a long context, an instruction about it and the response. `open_instructions(uri)` reads the scheme and
hands out the source. Every source guarantees what el_resources.corpus_source guarantees of a corpus: deterministic
shards whose names are partition keys and never become paths, fingerprints of content and reading, bounded memory, and
nothing read on opening. Beside that:
- Every row is yielded. A row that is not a whole sample comes with its reason, what is wrong in words, and no texts.
- Texts are as stored, not trimmed and not shortened, and can be encoded as UTF-8. What a model's window holds, and
  which ids and conversations repeat, is decided downstream.
- A sample carries its row's whole conversation as it came in, whatever of it is scored.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from el_resources.addresses import secrets_kept
from el_resources.instruction_columns import PoolReading
from el_resources.row_limits import RowLimits
from el_resources.tokenization import ModelTokenizer


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A message of a conversation.

    Attributes:
        kind: `system`, `user` or `assistant`.
        role: the source's own name of the role, such as `human`.
    """

    kind: str
    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class SourceSample:
    """One sample as its source has it.

    Attributes:
        source_id: the source's own id, None if it has none; ids may repeat.
        context, instruction, response: the texts that are scored; which exchange they are of is `scored_exchange`.
        later: instruction and response of every exchange that is scored with the first (`scored_exchange` all).
        n_turns: exchanges of a user and an assistant in the source.
        turns: the whole conversation; empty if it is the three texts.
        original: the row's conversation as it came in, as JSON; empty if it is the three texts.
        kept_columns: JSON object of the further columns that go out with the sample; None if none is asked for.
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
    later: tuple[tuple[str, str], ...] = ()
    n_turns: int = 1
    turns: tuple[Turn, ...] = ()
    original: str = ""
    kept_columns: str | None = None
    license: str = ""
    set_aside_reason: str | None = None
    detail: str = ""
    evidence: str | None = None
    evidence_distance_tokens: int | None = None

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The turns; of three texts a user's, which is context, blank line and instruction, and an assistant's."""
        if self.turns or self.set_aside_reason is not None:
            return self.turns
        asked = f"{self.context}\n\n{self.instruction}" if self.context else self.instruction
        return (
            Turn(kind="user", role="user", text=asked),
            Turn(kind="assistant", role="assistant", text=self.response),
        )

    @property
    def original_json(self) -> str:
        """The row's conversation as JSON."""
        texts = {"context": self.context, "instruction": self.instruction, "response": self.response}
        return self.original or json.dumps(texts, ensure_ascii=False)


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
    """The pool that `uri` names: `python-docs-questions:`, `parquet:PLACE`, `jsonl:PLACE` or `hf:OWNER/NAME/CONFIG`.

    Tokenizer and numbers are for the embedded pool, which is made to measure; files are read as they are.

    Args:
        uri: PLACE is a file, folder or glob, on this machine or at an address such as `s3://bucket/prefix`.
        tokenizer: gives the tokenizer of the long-window model. Called when samples are first asked for.
        samples_per_kind: samples with near, with far and with absent evidence, of each so many.
        windows: tokens that the short-window and the long-window model read at once; called for the embedded pool only,
            so that opening files never resolves a model.
        hub_endpoint: address of the Hugging Face hub or a mirror (EL_HUB_ENDPOINT); empty means the library's own.
        reading: how files are read; None reads the first exchange under the usual names.
        limits: the longest rows that are read; None for the defaults.
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

        files = open_files(uri, hub_endpoint)
        return FileInstructions(files=files, reading=reading or PoolReading(), limits=limits or RowLimits())
    from el_resources.python_docs_questions import PythonDocsQuestions

    if location:
        raise ValueError(
            f"instructions {uri!r}: python-docs-questions: is one pool, write it with nothing after the colon"
        )
    if reading is not None and reading.names_columns:
        warnings.warn(
            "instruction_columns and keep_columns are not used: python-docs-questions: has no columns", stacklevel=2
        )
    short_window, long_window = windows()
    return PythonDocsQuestions(
        tokenizer=tokenizer, samples_per_kind=samples_per_kind, short_window=short_window, long_window=long_window
    )


_SCHEMES = ("python-docs-questions", "parquet", "jsonl", "hf")
