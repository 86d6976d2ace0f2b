"""Source samples to the `instruction_samples` table: token counts, and a reason for every sample that is not scored.

Nothing is dropped: a sample that cannot be scored stays as a row with its reason, and without texts where its source
had none. A sample is named by its source's id, else by a hash of its texts; without texts, by its place in the shard.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import polars as pl

from el_assets.schemas import polars_schema
from el_resources.instruction_source import SourceSample
from el_resources.tokenization import ModelTokenizer

PARTS = ("context", "instruction", "response")


def samples_table(
    samples: Iterable[SourceSample],
    tokenizer: ModelTokenizer,
    *,
    window: int,
    separator: int,
    source_uri: str,
    set_aside_special: bool = False,
) -> pl.DataFrame:
    """The `instruction_samples` table of one shard, in the source's order.

    Args:
        window: tokens of the long-window model. Instruction, response, their joints and BOS must fit it; contexts are
        cut later. separator: tokens of one joint. set_aside_special: set samples aside that spell a control token.
    """
    listed = list(samples)
    counts = {part: _token_counts(tokenizer, [getattr(sample, part) for sample in listed]) for part in PARTS}
    rows, seen = [], set()
    for number, sample in enumerate(listed):
        sample_id = sample.source_id or _own_id(sample, number)
        n_tokens = {part: int(counts[part][number]) for part in PARTS}
        needed = 1 + n_tokens["instruction"] + separator + n_tokens["response"]
        reason, detail = sample.set_aside_reason, sample.detail
        if reason is None and sample_id in seen:
            reason, detail = "duplicate_id", f"id {sample_id!r} stood in the shard before"
        if reason is None and needed > window:
            reason, detail = (
                "does_not_fit_window",
                f"instruction and response need {needed} tokens, the window is {window}",
            )
        if reason is None and set_aside_special and (spelled := _spelled(sample, tokenizer)):
            reason, detail = "special_tokens", f"spells {spelled!r}"
        seen.add(sample_id)
        rows.append(
            {
                "sample_id": sample_id,
                **{part: getattr(sample, part) for part in PARTS},
                **{f"n_{part}_tokens": n for part, n in n_tokens.items()},
                "n_turns": sample.n_turns,
                "evidence": sample.evidence,
                "evidence_distance_tokens": sample.evidence_distance_tokens,
                "source": source_uri,
                "license": sample.license,
                "set_aside_reason": reason,
                "detail": detail or None,
            }
        )
    return pl.DataFrame(rows, schema=polars_schema("instruction_samples"), orient="row")


def scorable(samples: pl.DataFrame) -> pl.DataFrame:
    """The samples that were not set aside."""
    return samples.filter(pl.col("set_aside_reason").is_null())


def sample_facts(table: pl.DataFrame) -> dict[str, object]:
    """Counts for the materialization."""
    reasons = table["set_aside_reason"].drop_nulls().value_counts().sort("set_aside_reason")
    kinds = table["evidence"].drop_nulls().value_counts().sort("evidence")
    return {
        "samples": scorable(table).height,
        "multi_turn": int((table["n_turns"] > 1).sum()),
        "empty_contexts": int((scorable(table)["n_context_tokens"] == 0).sum()),
        "set_aside": dict(reasons.iter_rows()),
        "evidence": dict(kinds.iter_rows()),
    }


def _token_counts(tokenizer: ModelTokenizer, texts: Sequence[str]) -> np.ndarray:
    return np.array([len(ids) for ids in tokenizer.encode_batch(list(texts))], dtype=np.int64)


def _spelled(sample: SourceSample, tokenizer: ModelTokenizer) -> str | None:
    """A control token that one of the sample's texts spells."""
    found = (tokenizer.spelled_control_token(getattr(sample, part)) for part in PARTS)
    return next((name for name in found if name is not None), None)


def _own_id(sample: SourceSample, number: int) -> str:
    if sample.set_aside_reason is not None:
        return f"sample {number + 1} of the shard"
    text = "\0".join(getattr(sample, part) for part in PARTS)
    return blake2b(text.encode("utf-8"), digest_size=16).hexdigest()
