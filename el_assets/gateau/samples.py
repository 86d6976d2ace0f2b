"""The `instruction_samples` table: token counts, and a reason for every sample that is not scored.

No row is dropped: a sample that cannot be scored stays as a row with its reason. A sample's id is the one from its
source, else a hash of its conversation, else (without texts) its number in the shard. The source gives most reasons
(el_resources.sources.conversations); these are added here:

| reason | the sample has |
|---|---|
| exact_duplicate | the conversation of an earlier sample of the shard: the same turns, whatever their keys are called |
| duplicate_id | the id of an earlier sample, and another conversation |
| does_not_fit_window | instructions and responses longer than the model's window |
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import polars as pl

from el_assets.catalogue import RECIPES
from el_assets.tables.schemas import polars_schema
from el_resources.models.tokenization import ModelTokenizer
from el_resources.sources.contracts import SourceSample
from el_resources.store.stamps import Stamp

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
    """Return the `instruction_samples` table of one shard, in the source's order.

    Args:
        window: window of the long model, in tokens. Instructions, responses, their joints and BOS must fit into it;
            contexts are cut later.
        separator: tokens of a joint.
        set_aside_special: set aside samples that spell a control token.
    """
    listed = list(samples)
    rows = []
    ids: set[str] = set()
    conversations: dict[str, str] = {}
    for number, (sample, counts) in enumerate(zip(listed, token_counts(tokenizer, listed), strict=True)):
        # Name the sample.
        content_hash = conversation_hash(sample)
        sample_id = sample.source_id or content_hash or f"sample {number + 1} of the shard"
        # Find a reason against it.
        reason, detail = sample.set_aside_reason, sample.detail
        if reason is None and content_hash in conversations:
            reason, detail = "exact_duplicate", f"the conversation is that of sample {conversations[content_hash]!r}"
        elif reason is None and sample_id in ids:
            reason, detail = "duplicate_id", f"id {sample_id!r} stood in the shard before"
        elif reason is None and (needed := tokens_needed(counts, separator)) > window:
            reason = "does_not_fit_window"
            detail = f"instruction and response need {needed} tokens, the window is {window}"
        elif reason is None and set_aside_special and (spelled := spelled_control_token(sample, tokenizer)):
            reason, detail = "special_tokens", f"spells {spelled!r}"
        # Remember id and conversation.
        ids.add(sample_id)
        if content_hash:
            conversations.setdefault(content_hash, sample_id)
        rows.append(sample_row(sample, sample_id, content_hash, counts, source_uri, reason, detail))
    return pl.DataFrame(rows, schema=polars_schema("instruction_samples"), orient="row")


def sample_row(
    sample: SourceSample,
    sample_id: str,
    content_hash: str,
    counts: Mapping[str, Sequence[int]],
    source_uri: str,
    reason: str | None,
    detail: str,
) -> dict[str, Any]:
    """Return a row of `instruction_samples`."""
    later = [{"instruction": instruction, "response": response} for instruction, response in sample.later]
    return {
        "sample_id": sample_id,
        **{part: getattr(sample, part) for part in PARTS},
        "later_exchanges": later,
        **{f"n_{part}_tokens": sum(counts[part]) for part in PARTS},
        "n_turns": sample.n_turns,
        "messages": [{"role": turn.role, "content": turn.text} for turn in sample.conversation],
        "original": None if sample.set_aside_reason else sample.original_json,
        "kept_columns": sample.kept_columns,
        "content_hash": content_hash or None,
        "evidence": sample.evidence,
        "evidence_distance_tokens": sample.evidence_distance_tokens,
        "source": source_uri,
        "license": sample.license,
        "set_aside_reason": reason,
        "detail": detail or None,
    }


def token_counts(tokenizer: ModelTokenizer, samples: Sequence[SourceSample]) -> list[dict[str, list[int]]]:
    """Return the token counts of each sample's parts; instruction and response have one per scored exchange."""
    texts = {
        "context": [[sample.context] for sample in samples],
        "instruction": [[sample.instruction, *(asked for asked, _ in sample.later)] for sample in samples],
        "response": [[sample.response, *(answer for _, answer in sample.later)] for sample in samples],
    }
    counted = {}
    for part, lists in texts.items():
        lengths = iter([len(ids) for ids in tokenizer.encode_batch([text for texts in lists for text in texts])])
        counted[part] = [[next(lengths) for _ in texts] for texts in lists]
    return [{part: counted[part][number] for part in PARTS} for number in range(len(samples))]


def tokens_needed(counts: Mapping[str, Sequence[int]], separator: int) -> int:
    """Return the tokens of a sample without its context: BOS, instructions, responses and the joints between them."""
    n_joints = 2 * len(counts["response"]) - 1
    return 1 + sum(counts["instruction"]) + sum(counts["response"]) + n_joints * separator


def conversation_hash(sample: SourceSample) -> str:
    """Return the hash of a sample's turns, 32 hex digits; empty if it has no texts."""
    turns = [f"{turn.kind}\0{len(turn.text)}\0{turn.text}" for turn in sample.conversation]
    return blake2b("\0".join(turns).encode("utf-8"), digest_size=16).hexdigest() if turns else ""


def scorable(samples: pl.DataFrame) -> pl.DataFrame:
    """Return the samples that are not set aside."""
    return samples.filter(pl.col("set_aside_reason").is_null())


def sample_facts(table: pl.DataFrame) -> dict[str, object]:
    """Return counts for the stamp; `samples` and `set_aside` add up to the rows of the source."""
    reasons = table["set_aside_reason"].drop_nulls().value_counts().sort("set_aside_reason")
    kinds = table["evidence"].drop_nulls().value_counts().sort("evidence")
    return {
        "samples": scorable(table).height,
        "multi_turn": int((table["n_turns"] > 1).sum()),
        "empty_contexts": int((scorable(table)["n_context_tokens"] == 0).sum()),
        "set_aside": dict(reasons.iter_rows()),
        "evidence": dict(kinds.iter_rows()),
    }


def spelled_control_token(sample: SourceSample, tokenizer: ModelTokenizer) -> str | None:
    """Return a control token that a text of the sample spells; None if none does."""
    texts = [*(getattr(sample, part) for part in PARTS), *(text for exchange in sample.later for text in exchange)]
    found = (tokenizer.spelled_control_token(text) for text in texts)
    return next((name for name in found if name is not None), None)


def is_current(samples: Stamp) -> bool:
    """Return true if the present version made a shard's samples, so that they have all columns."""
    return samples.made_from.get("code_version") == RECIPES["instruction_samples"].code_version


def refuse_old_samples(samples: Mapping[str, Stamp]) -> None:
    """Raise ValueError if a shard's samples were made by an earlier version, which had other columns."""
    old = [shard for shard, stamp in samples.items() if not is_current(stamp)]
    if old:
        raise ValueError(
            f"instruction_samples of {len(old)} shards, the first is {old[0]!r}, were made by an earlier version; "
            "run the job score_samples, then select_samples again"
        )
