"""Contracts of a source of documents or of instruction samples, whatever it reads from.

Every source guarantees:
- `shards()` is deterministic; its names are readable, unique and valid Dagster partition keys.
- A shard name is looked up, never joined to a path, so no name reaches a file outside the source.
- `shard_fingerprint()` depends on the shard's content and on how it is read, never on a file's name or times.
- Items stream in bounded memory. A row that cannot be read is yielded with its reason, not dropped, and every string
  that is yielded can be encoded as UTF-8.
- Opening a source reads nothing; its path is read when the shards are first listed.

A sample is a long context, an instruction about it and the response. Its texts are as stored, neither trimmed nor
shortened; later steps cut them to a model's window, and find repeated ids and conversations. A sample contains the
whole conversation of its row as stored, whichever part of it is scored.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from el_resources.addresses import without_secrets
from el_resources.listed_names import listed

# Schemes of the URIs of a corpus and of a pool.
CORPUS_SCHEMES = ("python-docs", "parquet", "jsonl", "hf")
POOL_SCHEMES = ("python-docs-questions", "parquet", "jsonl", "hf")


@dataclass(frozen=True, kw_only=True)
class SourceDocument:
    """One document, as it is stored in its source.

    Attributes:
        source_id: the source's own stable id, None if it has none.
        text: the text; empty if it cannot be decoded.
        set_aside_reason: reason for which the text could not be read (el_resources.sources.corpus_files lists them).
            All other reasons for setting a document aside are found downstream.
        detail: the flaw in words, with the line or row, if the document is set aside.
    """

    source_id: str | None
    text: str
    url: str = ""
    license: str = ""
    set_aside_reason: str | None = None
    detail: str = ""


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
        original: the row's conversation as stored, as JSON; empty if it is just the three texts.
        kept_columns: JSON object of the further columns that are written with the sample; None if there are none.
        set_aside_reason: reason for which the row is not a sample; its texts are then empty.
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
        """Return the turns; three texts become a user's turn (context, blank line, instruction) and an assistant's."""
        if self.turns or self.set_aside_reason is not None:
            return self.turns
        asked = f"{self.context}\n\n{self.instruction}" if self.context else self.instruction
        return (
            Turn(kind="user", role="user", text=asked),
            Turn(kind="assistant", role="assistant", text=self.response),
        )

    @property
    def original_json(self) -> str:
        """Return the row's conversation as JSON."""
        texts = {"context": self.context, "instruction": self.instruction, "response": self.response}
        return self.original or json.dumps(texts, ensure_ascii=False)


class ShardedSource(Protocol):
    """A corpus or a pool of samples, divided into shards."""

    @property
    def uri(self) -> str: ...

    def shards(self) -> list[str]:
        """Return the names of the shards, which are partition keys."""
        ...

    def passed_over(self) -> Mapping[str, str]:
        """Return the reasons of the listed files that are not shards (hidden, pointers, …), by path."""
        ...

    def shard_fingerprint(self, shard: str) -> str:
        """Return a hash of the shard's content and of everything that affects its reading, except the tokenizer."""
        ...

    def origin(self, shard: str) -> Mapping[str, str]:
        """Return the shard's origin for the records: `source` (the URI), and `file` and `revision` if it has them."""
        ...


class CorpusSource(ShardedSource, Protocol):
    """A source of documents."""

    def documents(self, shard: str) -> Iterator[SourceDocument]:
        """Yield the shard's documents in stored order; raise CorruptShardError if its bytes are not of its format."""
        ...


class InstructionSource(ShardedSource, Protocol):
    """A source of instruction samples."""

    def samples(self, shard: str) -> Iterator[SourceSample]:
        """Yield the shard's samples in stored order; raise CorruptShardError if its bytes are not of its format."""
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


def unknown_shard(shard: str, uri: str, known: list[str]) -> ValueError:
    """Return the error for a shard that a source does not have."""
    return ValueError(f"source {uri!r} has no shard {shard!r}; it has {len(known)}: {listed(known)}")
