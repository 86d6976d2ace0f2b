"""Changes to a tokenizer.json that allow encoding piece by piece: no control tokens from text, and no added space.

With a published tokenizer the ids of several texts cannot always be joined, for two reasons:
- *Control tokens that count as text.* If a text spells a special token, the library can encode it as ordinary text, but
  only if the token is marked `special`. Tool, reasoning and fill-in tokens are often not marked (Qwen's `<tool_call>`,
  `<|fim_prefix|>`). Here every added token with the form of a control token is marked. Added tokens of ordinary text
  (runs of white space, words, HTML elements) stay as they are, since the model was trained with them.
- *The dummy prefix.* SentencePiece puts a space before a text, and decoding removes it at the beginning only, so that
  the separator `"\\n\\n"` between two texts would become `" \\n\\n "`. Here it is switched off in all its forms.

Tokenizers without such tokens and prefixes are not changed. Imports nothing but the standard library.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

# Part of the fingerprint of changed tokenizers; it rises when the code below changes them differently.
VERSION = 1
_CONTROL = re.compile(r"[▁ ]?(?:<\|[^<>\n]+\|>|<[^<>\s]+>|\[[^\[\]\s]+\]|｟[^\n]+｠|[^\n]*｜[^\n]*)")
# HTML elements that vocabularies contain as words (Gemma's), without `s`, since `<s>` is BOS.
_HTML = re.compile(
    r"</?(?:a|b|blockquote|br|caption|code|div|em|h[1-6]|hr|i|img|li|ol|p|pre|span|strong|sub|sup|table|tbody|td|tfoot"
    r"|th|thead|tr|u|ul)/?>"
)


def is_control_form(content: str) -> bool:
    """Tell whether an added token looks like a control token rather than text.

    Its form is `<...>`, `[...]`, `｟...｠`, each without white space, `<|...|>`, or anything with a fullwidth bar `｜`;
    names of HTML elements are text.

    Example:
        >>> [is_control_form(token) for token in ("<tool_call>", "[INST]", "<table>", "    ", "don't")]
        [True, True, False, False, False]
    """
    return bool(_CONTROL.fullmatch(content)) and not _HTML.fullmatch(content)


def made_exact(tokenizer: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a tokenizer.json with its control tokens marked and its dummy prefix off, and the list of changes."""
    parts = ("added_tokens", "normalizer", "pre_tokenizer", "decoder")
    changed = {**tokenizer, **{part: copy.deepcopy(tokenizer.get(part)) for part in parts}}
    changes = [
        f"control token {token['content']}"
        for token in changed.get("added_tokens") or []
        if not token.get("special") and is_control_form(token["content"])
    ]
    for token in changed.get("added_tokens") or []:
        token["special"] = bool(token.get("special")) or is_control_form(token["content"])
    for part in parts[1:]:
        changed[part] = _without_prefix(changed.get(part), part, changes)
    return changed, changes


def _without_prefix(step: dict[str, Any] | None, part: str, changes: list[str]) -> dict[str, Any] | None:
    """Return a tokenizer's step that neither adds nor removes a space before a text; None if nothing is left of it."""
    if step is None:
        return None
    kind = step.get("type")
    if kind == "Sequence":
        listed = next(key for key in ("normalizers", "pretokenizers", "decoders") if key in step)
        kept = [_without_prefix(inner, part, changes) for inner in step[listed]]
        step[listed] = [inner for inner in kept if inner is not None]
    elif kind == "Prepend" or (kind == "Strip" and part == "decoder" and step.get("start")):
        changes.append(f"{part} {kind}")
        return None
    elif kind == "Metaspace" and (step.get("prepend_scheme") or _legacy_scheme(step)) != "never":
        changes.append(f"{part} {kind}")
        step.pop("add_prefix_space", None)
        step["prepend_scheme"] = "never"
    elif kind == "ByteLevel" and part == "pre_tokenizer" and step.get("add_prefix_space"):
        changes.append(f"{part} {kind}")
        step["add_prefix_space"] = False
    return step


def _legacy_scheme(step: Mapping[str, Any]) -> str:
    """Return the scheme of a Metaspace step that has the option `add_prefix_space` instead of a scheme."""
    return "always" if step.get("add_prefix_space", True) else "never"
