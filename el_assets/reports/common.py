"""Parts that both reports share: the sample of entries shown in detail, settings and costs, tokens as text."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from el_assets.entropylong.anchors import seeded_hash
from el_assets.reports.page import as_script_data
from el_resources.models.causal_lm import ModelChoice
from el_resources.models.tokenization import ModelTokenizer
from el_resources.settings import Settings
from el_resources.store.shard_tables import ShardTables
from el_resources.store.stamps import Stamp

# Most entries of a reader. All readers of a page have less than 10 MB together, which open in under 2 s.
MOST_ENTRIES = 200

Key = tuple[str, str]  # shard, id

# Meanings of the entries of a stamp that are roles of models (el_assets.tables.description) and not settings.
ROLES = {
    "scorer": "Fingerprint of the model that scores.",
    "short_reader": "Fingerprint of the model of the short-window reading; `within` gives its window in tokens.",
    "tokenizer": "Fingerprint of the tokenizer of `scorer`.",
    "window": "Tokens that `scorer` reads at once.",
    "encoder": "Fingerprint of the retrieval encoder.",
}
# Meanings of the facts of a stamp that describe how a model read texts.
READINGS = {
    "bos_id": "Its id.",
    "bos_token": "Token in front of every text that was scored.",
    "device": "Device that the texts were scored on.",
    "dtype": "Dtype of the weights in memory while texts were scored.",
    "end_of_text": "Token between groups, if it is not the one that the checkpoint names.",
    "end_of_text_id": "Its id.",
    "end_of_text_token": "Token between the groups of a sequence.",
    "segments_by_layers": "Number of context segments, by the number of layers over which their attention is a mean.",
    "short_window_tokens": "Tokens of the short window.",
    "weights": "Weights of HMP and CAS in the score.",
    "window_tokens": "Tokens that the model reads at once; for GATEAU the long window.",
}


def sampled(keys: Iterable[Key]) -> list[Key]:
    """Return the keys sorted by hash: the first n are always the same random sample, for any n."""
    return sorted(keys, key=lambda key: seeded_hash(0, "report", *key))


def within_limits(entries: Iterable[dict[str, Any]], *, n_bytes: int) -> list[dict[str, Any]]:
    """Return the first entries, as many as fit into `n_bytes`, sorted by shard and id.

    They are at most MOST_ENTRIES, and at least one if there is any.
    """
    taken: list[dict[str, Any]] = []
    for entry in entries:
        n_bytes -= len(as_script_data(entry).encode("utf-8"))
        if taken and n_bytes < 0:
            break
        taken.append(entry)
        if len(taken) == MOST_ENTRIES:
            break
    return sorted(taken, key=lambda entry: (entry["shard"], entry["id"]))


def tokenizer_of(settings: Settings, stamp: Stamp) -> ModelTokenizer:
    """Return the tokenizer that made the table's token ids.

    Raises:
        ValueError: the settings name a model with another tokenizer.
    """
    model = ModelChoice.long(settings)
    if model.tokenizer_fingerprint() != stamp.settings["tokenizer"]:
        raise ValueError(
            f"{stamp.asset} of shard {stamp.partition!r} was made with another tokenizer than that of {model.name!r}; "
            "set EL_LONG_MODEL to the model that the tables were made with"
        )
    return model.tokenizer()


def token_texts(tokenizer: ModelTokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds; joined, they are the text of all tokens.

    If several tokens share the bytes of a character, the last of them gets it, and the texts of the others are empty.
    Each token is decoded after its predecessor, since some vocabularies drop a space at the start of a text.
    """
    texts = [""] * len(ids)
    before: list[int] = []
    pending: list[int] = []
    for index, token in enumerate(ids):
        # Decode after predecessor.
        pending.append(token)
        text = tokenizer.decode([*before, *pending])[len(tokenizer.decode(before)) :] if before else None
        text = tokenizer.decode(pending) if text is None else text
        # Await split characters.
        if text.endswith("\ufffd") and len(pending) < 4 and index + 1 < len(ids):
            continue
        texts[index] = text
        before, pending = pending, []
    return texts


def shortened(text: str, characters: int) -> str:
    """Return the text, or its beginning and the number of characters that follow."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({len(text) - characters:,} more characters)"


def rounded(values: Iterable[float | None], digits: int = 3) -> list[float | None]:
    """Return rounded numbers; None stays None."""
    return [None if value is None else round(float(value), digits) for value in values]


def settings_rows(stamps: Sequence[Stamp]) -> list[list[str]]:
    """Return (name, value, meaning) of all settings and models that the tables were made with."""
    read = {name: value for stamp in stamps for name, value in stamp.facts.items() if name in READINGS}
    made_under = {name: value for stamp in stamps for name, value in stamp.settings.items()}
    merged = {**read, **made_under}
    meanings = READINGS | {name: field.description or "" for name, field in Settings.model_fields.items()} | ROLES
    return [
        [name, json.dumps(value, ensure_ascii=False), meanings.get(name, "")] for name, value in sorted(merged.items())
    ]


def cost_rows(tables: ShardTables, assets: Sequence[str], shards: Sequence[str]) -> list[list[Any]]:
    """Return (asset, shards, rows, seconds, forwards, tokens) for each asset: its costs, from the stamps."""
    rows = []
    for asset in assets:
        stamps = tables.stamps(asset, shards).values()
        totals = [sum(stamp.facts.get(fact, 0) for stamp in stamps) for fact in ("rows", "seconds")]
        model = [
            sum(stamp.facts[fact] for stamp in stamps if fact in stamp.facts)
            if any(fact in stamp.facts for stamp in stamps)
            else None
            for fact in ("forwards", "tokens")
        ]
        rows.append([asset, len(stamps), totals[0], round(totals[1], 1), *model])
    return rows


def set_aside_remark(n: int) -> str:
    return f"{n:,} more were set aside" if n else "none was set aside"


def refuse_torn_chain(chain: Sequence[Stamp]) -> None:
    """Raise ValueError if the tables of a shard were made under different settings.

    This happens if an early table was made again and the later ones were not: then their numbers contradict each other.

    Args:
        chain: stamps of the tables, each made from those before it.
    """
    for earlier, later in pairwise(chain):
        for name in sorted(earlier.settings.keys() & later.settings.keys()):
            if earlier.settings[name] != later.settings[name]:
                raise ValueError(
                    f"shard {later.partition!r}: {name} is {earlier.settings[name]!r} in {earlier.asset} and "
                    f"{later.settings[name]!r} in {later.asset}; materialize {later.asset} and all after it again"
                )
