"""Near-copies of text, told by their runs of five words."""

import re

SHINGLE_WORDS = 5
_WORD = re.compile(r"\w+")


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The text's runs of five words, case folded; a shorter text is one shingle, a text without words none."""
    words = _WORD.findall(text.casefold())
    if len(words) < SHINGLE_WORDS:
        return frozenset({tuple(words)} if words else ())
    return frozenset(zip(*(words[offset:] for offset in range(SHINGLE_WORDS)), strict=False))


def containment(chunk: frozenset[tuple[str, ...]], root: frozenset[tuple[str, ...]]) -> float:
    """Share of the chunk's shingles that stand in the root; 0 for a chunk without words."""
    return len(chunk & root) / len(chunk) if chunk else 0.0
