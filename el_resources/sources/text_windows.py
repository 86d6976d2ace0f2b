"""Contexts of a given length: a passage in a window of surrounding texts, at a given distance from the window's end.

Lengths are in tokens of one tokenizer. Windows start and end between two words, and their texts are joined by blank
lines. Guarantees: the window has the wanted length, and the passage the wanted distance, within a few tokens, since
words are not cut and joined texts may have more or fewer tokens than their parts.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from el_resources.models.tokenization import ModelTokenizer

BLANK_LINE = "\n\n"
# Words of letters and digits, and single signs, so that a row of dashes can be cut anywhere.
WORD = re.compile(r"[^\W_]+|[^\w\s]|_")

# Joined texts have more or fewer tokens than their parts. A window is filled again, with the difference added to its
# room, until at most NEARLY tokens are missing, or this many times.
TRIES = 4
NEARLY = range(3)


@dataclass(frozen=True)
class Excerpt:
    """A piece of a text, with its number of tokens by itself."""

    source: str
    text: str
    n_tokens: int


class TextWindows:
    """Cutter of texts by tokens of `tokenizer`."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._joint_tokens = self.count(BLANK_LINE)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text by itself."""
        return len(self._tokenizer.encode(text))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text by itself."""
        return [len(ids) for ids in self._tokenizer.encode_batch(texts)]

    def start_of(self, source: str, text: str, n_tokens: int) -> Excerpt:
        """Return as many of a text's first blocks as fit `n_tokens`; blocks are separated by blank lines."""
        blocks = text.strip("\n").split(BLANK_LINE)
        return self._excerpt(source, blocks[: self._n_fitting(blocks, n_tokens)])

    def end_of(self, source: str, text: str, n_tokens: int) -> Excerpt:
        """Return as many of a text's last blocks as fit `n_tokens`."""
        blocks = text.strip("\n").split(BLANK_LINE)[::-1]
        return self._excerpt(source, blocks[: self._n_fitting(blocks, n_tokens)][::-1])

    def around(
        self, passage: str, before: Sequence[Excerpt], after: Sequence[Excerpt], *, n_tokens: int, n_after: int
    ) -> tuple[str, int]:
        """Return a window around a passage, which may be empty.

        Args:
            before: texts before the passage, the nearest first.
            after: texts after the passage, the nearest first.
            n_tokens: length of the window.
            n_after: wanted number of tokens between the end of the passage and the end of the window.

        Returns:
            The window, and the number of tokens after the passage, including the joint.
        """
        tail = self._filled(after, n_after, self._head, lambda texts: BLANK_LINE.join(["", *texts]), fixed="")
        core = (passage + tail).strip("\n")
        window = self._filled(
            before, n_tokens, self._tail, lambda texts: BLANK_LINE.join(filter(None, [*texts[::-1], core])), fixed=core
        )
        return window, self.count(tail)

    def _filled(
        self,
        excerpts: Sequence[Excerpt],
        n_tokens: int,
        cut: Callable[[str, int], str],
        joined: Callable[[list[str]], str],
        *,
        fixed: str,
    ) -> str:
        """Return the result of `joined` for as many of the excerpts, nearest first, as bring it to `n_tokens` tokens.

        Args:
            cut: shortens a text to a number of tokens.
            joined: makes one text of the taken texts; `fixed` is the part of it that they do not add.
        """
        room = n_tokens - self.count(fixed)
        for _ in range(TRIES):
            # Fill and count.
            text = joined(self._taken(excerpts, room, cut))
            missing = n_tokens - self.count(text)
            if missing in NEARLY:
                break
            # Correct the room.
            room += missing
        return text

    def _taken(self, excerpts: Sequence[Excerpt], n_tokens: int, cut: Callable[[str, int], str]) -> list[str]:
        """Return texts, nearest first, that fill `n_tokens` together with their joints; the last one is cut to fit."""
        taken: list[str] = []
        room = n_tokens
        for excerpt in excerpts:
            if excerpt.n_tokens + self._joint_tokens > room:
                last = cut(excerpt.text, room - self._joint_tokens)
                return [*taken, last] if last else taken
            if excerpt.text:
                taken.append(excerpt.text)
                room -= excerpt.n_tokens + self._joint_tokens
        raise ValueError(f"the texts are too short for a context of {n_tokens} tokens; use a shorter window")

    def _head(self, text: str, n_tokens: int) -> str:
        """Return as many of the text's first words as fit."""
        ends = [word.end() for word in WORD.finditer(text)]
        n_words = bisect_right(ends, n_tokens, key=lambda end: self.count(text[:end]))
        return text[: ends[n_words - 1]] if n_words else ""

    def _tail(self, text: str, n_tokens: int) -> str:
        """Return as many of the text's last words as fit."""
        starts = [word.start() for word in WORD.finditer(text)][::-1]
        n_words = bisect_right(starts, n_tokens, key=lambda start: self.count(text[start:]))
        return text[starts[n_words - 1] :] if n_words else ""

    def _n_fitting(self, blocks: list[str], n_tokens: int) -> int:
        """Return the number of the first blocks that fit, together with their joints."""
        sums = accumulate(count + self._joint_tokens for count in self.counts(blocks))
        return bisect_right(list(sums), n_tokens)

    def _excerpt(self, source: str, blocks: list[str]) -> Excerpt:
        text = BLANK_LINE.join(blocks)
        return Excerpt(source, text, self.count(text))
