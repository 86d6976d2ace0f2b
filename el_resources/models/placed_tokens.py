"""Choice of the two tokens that this project places: BOS before every text, end-of-text between unrelated texts.

Each of the two is the first that exists of:
1. The token that the settings name (EL_BOS_TOKEN, EL_END_OF_TEXT_TOKEN). A name is refused if the tokenizer lacks it or
   uses it for ordinary text: it must be special, named by the folder's files, or in `END_OF_TEXT_NAMES` or `BOS_NAMES`.
2. The checkpoint's own token: the name in tokenizer_config.json, else the id in config.json. A model without BOS gets
   its end-of-text token in place of BOS. A chat token is skipped, since pre-training texts did not follow one.
3. In place of a chat token, the tokenizer's end-of-text token: the first EOS token of config.json and
   generation_config.json that is not a chat token, else the first of `END_OF_TEXT_NAMES` that the tokenizer has.
4. The chat token, if there is no other.

A *chat token* is spelled in the folder's chat template, or is one of `CHAT_TOKEN_NAMES`, for folders without their
template. Names in `END_OF_TEXT_NAMES` and `BOS_NAMES` are never chat tokens, although templates spell them as well.
SmolLM2-Instruct, for example, names `<|im_start|>` and `<|im_end|>`, and has `<|endoftext|>` for both.

Imports neither torch nor transformers.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from el_resources.models.model_files import read_config, read_json

END_OF_TEXT_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<|endofprompt|>",
    "<eos>",
    "</s>",
    "[EOS]",
)
BOS_NAMES = ("<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<|startoftext|>", "<bos>", "<s>", "[BOS]")
CHAT_TOKEN_NAMES = (
    "<|im_start|>",
    "<|im_end|>",
    "<|im_sep|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|call|>",
)
NAMES_SUGGESTED = 5


@dataclass(frozen=True)
class PlacedTokens:
    """Ids of BOS and end-of-text.

    Attributes:
        has_bos: true if the model has a BOS of its own.
        own_bos_id, own_end_of_text_id: ids that the checkpoint's files name, also if they are chat tokens.
        kept_from_text: spellings of placed tokens that settings name and the tokenizer does not mark as special. Text
            is never encoded as one of them.
    """

    bos_id: int
    has_bos: bool
    end_of_text_id: int
    own_bos_id: int
    own_end_of_text_id: int
    kept_from_text: tuple[str, ...] = ()


def choose_placed_tokens(
    folder: Path,
    vocabulary: Mapping[str, int],
    special_tokens: Mapping[str, int],
    *,
    bos_token: str = "",
    end_of_text_token: str = "",
) -> PlacedTokens:
    """Choose BOS and end-of-text of a model folder by the rule above.

    Args:
        vocabulary, special_tokens: ids by spelling, of all tokens and of those that the tokenizer marks as special.
        bos_token, end_of_text_token: names from the settings; empty for the rule's choice.

    Raises:
        ValueError: the tokenizer lacks a named token or uses it for text, or no file names an end-of-text token.
    """
    named_eos = _asked_for(folder, "EL_END_OF_TEXT_TOKEN", end_of_text_token, vocabulary, special_tokens)
    own_eos = _own_eos_id(folder, vocabulary)
    if own_eos is None and named_eos is None:
        raise ValueError(
            f"{folder} names no end-of-text token; set eos_token in its tokenizer_config.json, or EL_END_OF_TEXT_TOKEN"
        )
    own_eos_id = named_eos if own_eos is None else own_eos
    assert own_eos_id is not None, "one of the two is there"
    chat_ids = chat_token_ids(folder, vocabulary)
    plain_eos_id = own_eos_id
    if own_eos_id in chat_ids:
        plain_eos_id = _other_end_of_text(folder, vocabulary, special_tokens, chat_ids, default=own_eos_id)
    eos_id = plain_eos_id if named_eos is None else named_eos
    own_bos_id, has_bos = _own_bos_id(folder, vocabulary, own_eos_id)
    bos_id = _asked_for(folder, "EL_BOS_TOKEN", bos_token, vocabulary, special_tokens)
    if bos_id is None:
        is_replaced = own_bos_id in chat_ids
        bos_id = (
            _other_end_of_text(folder, vocabulary, special_tokens, chat_ids, default=own_bos_id)
            if is_replaced
            else own_bos_id
        )
    ordinary = sorted(name for name in {bos_token, end_of_text_token} - {""} if name not in special_tokens)
    has_bos = has_bos and bos_id == own_bos_id
    return PlacedTokens(bos_id, has_bos, eos_id, own_bos_id, own_eos_id, tuple(ordinary))


def chat_token_ids(folder: Path, vocabulary: Mapping[str, int]) -> set[int]:
    """Return the ids of the chat tokens that the folder could name as BOS or end-of-text."""
    templates = chat_templates(folder)
    kept = {*END_OF_TEXT_NAMES, *BOS_NAMES}
    known = {*CHAT_TOKEN_NAMES} & vocabulary.keys()
    spelled = {name for name in _named_tokens(folder, vocabulary) if any(name in template for template in templates)}
    return {vocabulary[name] for name in (known | spelled) - kept}


def may_have_chat_tokens(folder: Path) -> bool:
    """Return false if names alone, without a vocabulary, show that BOS and end-of-text are not chat tokens."""
    settings = _settings(folder)
    names = [_name(settings.get(key)) for key in ("bos_token", "eos_token")]
    return not all(name in END_OF_TEXT_NAMES or name in BOS_NAMES for name in names)


def chat_templates(folder: Path) -> list[str]:
    """Return every chat template of a model folder, from all places in which transformers looks."""
    files = [folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))]
    found: list[Any] = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).is_file():
            given = read_json(folder / name).get("chat_template")
            several = given if isinstance(given, list) else [given]
            found += [one.get("template") if isinstance(one, dict) else one for one in several]
    return [template for template in found if isinstance(template, str)]


def _named_tokens(folder: Path, vocabulary: Mapping[str, int]) -> set[str]:
    """Return the spellings of tokens that the folder's files give, by name or id, as BOS or end-of-text."""
    settings, names = _settings(folder), {number: name for name, number in vocabulary.items()}
    named = {_name(settings.get(key)) for key in ("bos_token", "eos_token")}
    numbered = {names.get(number) for key in ("bos_token_id", "eos_token_id") for number in _numbers(folder, key)}
    return {name for name in named | numbered if name and name in vocabulary}


def _other_end_of_text(
    folder: Path,
    vocabulary: Mapping[str, int],
    special_tokens: Mapping[str, int],
    chat_ids: set[int],
    *,
    default: int,
) -> int:
    """Return the tokenizer's end-of-text token, which takes the place of a chat token; `default` if it has none."""
    numbered = [number for number in _numbers(folder, "eos_token_id") if number not in chat_ids]
    known = [names[name] for names in (special_tokens, vocabulary) for name in END_OF_TEXT_NAMES if name in names]
    held = set(vocabulary.values())
    return next((number for number in (*numbered, *known) if number in held), default)


def _asked_for(
    folder: Path, variable: str, name: str, vocabulary: Mapping[str, int], special_tokens: Mapping[str, int]
) -> int | None:
    """Return the id of the token that a setting names; None if it is empty."""
    if not name:
        return None
    placeable = _placeable(folder, vocabulary, special_tokens)
    if name in placeable:
        return vocabulary[name]
    why = "takes this for ordinary text, not for a special token" if name in vocabulary else "has no such token"
    near = difflib.get_close_matches(name, placeable, n=NAMES_SUGGESTED, cutoff=0)
    raise ValueError(
        f"{variable}={name!r}: the tokenizer of {str(folder)!r} {why}; "
        + (f"nearest are {', '.join(map(repr, near))}, or leave it empty" if near else "leave it empty")
    )


def _placeable(folder: Path, vocabulary: Mapping[str, int], special_tokens: Mapping[str, int]) -> list[str]:
    """Return the spellings of tokens that do not encode text: special ones, and those with a role or a known name."""
    roles = {_name(token) for key, token in _settings(folder).items() if key.endswith("_token")}
    found = {*special_tokens, *END_OF_TEXT_NAMES, *BOS_NAMES, *roles, *_named_tokens(folder, vocabulary)}
    return sorted(name for name in found if name and name in vocabulary)


def _own_eos_id(folder: Path, vocabulary: Mapping[str, int]) -> int | None:
    """Return the id of end-of-text by its name in tokenizer_config.json, else the id in config.json."""
    named = vocabulary.get(_name(_settings(folder).get("eos_token")) or "")
    return named if named is not None else next(iter(_numbers_of(read_config(folder), "eos_token_id")), None)


def _own_bos_id(folder: Path, vocabulary: Mapping[str, int], eos_id: int) -> tuple[int, bool]:
    """Return (id of BOS or of the token used in its place, true if it is a BOS of the model).

    Qwen's tokenizers declare `"bos_token": null`, and their configs number the end-of-text token as BOS.
    """
    settings = _settings(folder)
    named = vocabulary.get(_name(settings.get("bos_token")) or "")
    if named is not None:
        return named, True
    numbered = next(iter(_numbers_of(read_config(folder), "bos_token_id")), None)
    if numbered is None:
        return eos_id, False
    return numbered, "bos_token" not in settings


def _settings(folder: Path) -> dict[str, Any]:
    """Return the folder's tokenizer_config.json; empty if there is none."""
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _name(token: object) -> str | None:
    """Return the spelling of a token that is given as a string or as an object with its `content`; else None."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _numbers(folder: Path, key: str) -> list[int]:
    """Return the token ids of a key in config.json and generation_config.json."""
    generation = folder / "generation_config.json"
    found = _numbers_of(read_config(folder), key)
    return [*found, *(_numbers_of(read_json(generation), key) if generation.is_file() else [])]


def _numbers_of(config: Mapping[str, Any], key: str) -> list[int]:
    """Return the token ids of a config's key; chat models list several."""
    text = config.get("text_config")
    value = config.get(key, text.get(key) if isinstance(text, dict) else None)
    listed = value if isinstance(value, list) else [value]
    return [number for number in listed if isinstance(number, int)]
