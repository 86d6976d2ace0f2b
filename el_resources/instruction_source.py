"""Sources of instruction samples: one interface over every kind of pool.

A sample is a long context, an instruction about it and the response. `open_instructions(uri)` returns the source of the
URI's scheme. Every source gives the guarantees of a corpus (el_resources.corpus_source): deterministic shards whose
names are partition keys and never become paths, fingerprints of content and reading, bounded memory, and nothing read
on opening. It also guarantees:
- Every row is yielded. A row that is not a whole sample has a reason, the flaw in words, and no texts.
- Texts are as stored, not trimmed and not shortened, and can be encoded as UTF-8. Cutting to a model's window, and
  finding repeated ids and conversations, is left to downstream steps.
- A sample carries its row's whole conversation as it came in, whichever part of it is scored.
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
    """One sample, as it is stored in its source.

    Attributes:
        source_id: the source's own id, None if it has none; ids may repeat.
        context, instruction, response: the texts that are scored, of the exchange that `scored_exchange` chooses.
        later: (instruction, response) of every exchange that is scored with the first (`scored_exchange` all).
        n_turns: exchanges of a user and an assistant in the source.
        turns: the whole conversation; empty if it is just the three texts.
        original: the row's conversation as it came in, as JSON; empty if it is just the three texts.
        kept_columns: JSON object of the further columns that are written with the sample; None if none is asked for.
        set_aside_reason: reason for which the row is no sample; its texts are then empty.
        detail: the flaw in words, if the row is set aside.
        evidence: `near`, `far` or `absent`: distance from the response to the passage that it needs; None if the source
            does not know it.
        evidence_distance_tokens: tokens of context and instruction between the end of the needed passage and the start
            of the response, without the tokens that join the parts; None if the passage is absent or unknown.
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
        """The turns; of three texts, a user's turn (context, blank line, instruction) and an assistant's."""
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
    """A pool of samples that is divided into shards."""

    @property
    def uri(self) -> str: ...

    def shards(self) -> list[str]:
        """Return the names of the shards, which are partition keys."""
        ...

    def passed_over(self) -> Mapping[str, str]:
        """Return the reasons of the listed files that are no shards (hidden, pointers, …), by path."""
        ...

    def shard_fingerprint(self, shard: str) -> str:
        """Return a hash of the shard's content and of everything but the tokenizer that decides how it is read."""
        ...

    def origin(self, shard: str) -> Mapping[str, str]:
        """Return the shard's origin, to be recorded: `source`, its URI, and `file` and `revision` if it has them."""
        ...

    def samples(self, shard: str) -> Iterator[SourceSample]:
        """Yield the shard's samples in stored order; raise CorruptShardError if its bytes are not of its format."""
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
    """Return the pool that `uri` names.

    `uri` is `python-docs-questions:`, `parquet:PLACE`, `jsonl:PLACE` or `hf:OWNER/NAME/CONFIG`. Tokenizer, windows and
    the number of samples are for the embedded pool, which is made to fit them; files are read as they are.

    Args:
        uri: PLACE is a file, folder or glob, on this machine or at an address such as `s3://bucket/prefix`.
        tokenizer: returns the tokenizer of the long-window model; called when samples are first asked for.
        samples_per_kind: number of samples of each kind: with near, with far and with absent evidence.
        windows: returns the tokens that the short-window and the long-window model read at once; called for the
            embedded pool only, so that opening files never resolves a model.
        hub_endpoint: address of the Hugging Face hub or a mirror (EL_HUB_ENDPOINT); empty means the library's own.
        reading: settings by which files are read; None reads the first exchange under the usual names.
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

        files = open_files(uri, hub_endpoint, "EL_INSTRUCTIONS")
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
