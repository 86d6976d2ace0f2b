"""Pools of instruction samples in files, and what is read from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from el_resources.models.tokenization import ModelTokenizer
from el_resources.sources.contracts import InstructionSource, SourceSample
from el_resources.sources.opening import open_instructions
from tests.support.written_files import WRITERS, Row


def no_tokenizer() -> ModelTokenizer:
    raise AssertionError("files are read without a tokenizer")


def no_windows() -> tuple[int, int]:
    raise AssertionError("files are read without a model")


def opened(uri: str) -> InstructionSource:
    return open_instructions(uri, tokenizer=no_tokenizer, samples_per_kind=1, windows=no_windows)


def only_shard(uri: str) -> list[SourceSample]:
    source = opened(uri)
    (shard,) = source.shards()
    return list(source.samples(shard))


def messages(*turns: tuple[Any, Any], **others: Any) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **others}


def sample(context: str, instruction: str, response: str, **others: Any) -> SourceSample:
    return SourceSample(
        source_id=others.pop("source_id", None), context=context, instruction=instruction, response=response, **others
    )


def set_aside(reason: str, detail: str, source_id: str | None = None) -> SourceSample:
    return sample("", "", "", source_id=source_id, n_turns=0, set_aside_reason=reason, detail=detail)


def scored(read: list[SourceSample]) -> list[SourceSample]:
    """The samples without their conversations, of which test_instruction_files tells."""
    return [replace(one, turns=(), original="") for one in read]


def read_rows(folder: Path, scheme: str, rows: list[Row]) -> list[SourceSample]:
    WRITERS[scheme](folder / f"a.{scheme}", rows)
    return scored(only_shard(f"{scheme}:{folder}"))
