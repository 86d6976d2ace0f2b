"""Near-copies of text, recognised by their runs of five words (shingles).

A word is a run of letters, digits and underscores. In scripts that are written without spaces (Han, Hiragana, Katakana,
Thai, Lao, Khmer, Myanmar, Tibetan and similar ones) every character is a word; otherwise a whole clause would be one.
"""

import re

SHINGLE_WORDS = 5
# Blocks of the scripts without spaces. Their punctuation and most of their vowel signs do not match `\w`: no words.
UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"  # Myanmar
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u1950-\u19df\u1a00-\u1aaf\uaa80-\uaadf"  # Tai Le, New Tai Lue, Buginese, Tai Tham, Tai Viet
    "\ua980-\ua9df\u1b00-\u1b7f"  # Javanese, Balinese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b"  # Han: radicals, iteration marks, numerals
    "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana
    "\u3100-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\ua000-\ua4cf"  # Yi
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"  # Kana and Han beyond the basic plane
)
_WORD = re.compile(rf"(?=\w)[{UNSPACED}]|[^\W{UNSPACED}]+")


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Return the text's runs of five words, case folded; a shorter text is one shingle, a text without words none.

    Example:
        >>> sorted(shingles("One two three four five six"))
        [('one', 'two', 'three', 'four', 'five'), ('two', 'three', 'four', 'five', 'six')]
    """
    words = _WORD.findall(text.casefold())
    if len(words) < SHINGLE_WORDS:
        return frozenset({tuple(words)} if words else ())
    return frozenset(zip(*(words[offset:] for offset in range(SHINGLE_WORDS)), strict=False))


def containment(chunk: frozenset[tuple[str, ...]], root: frozenset[tuple[str, ...]]) -> float:
    """Return the share of the chunk's shingles that are in the root; 0 for a chunk without words.

    Example:
        >>> containment(shingles("a b c d e f"), shingles("a b c d e"))
        0.5
    """
    return len(chunk & root) / len(chunk) if chunk else 0.0
