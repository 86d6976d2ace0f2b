"""Contexts cut to measure: a passage in a window of surrounding texts, at a wanted distance from the window's end.

Lengths are in tokens of one tokenizer. Windows start and end between two words; what they consist of is joined by blank
lines. Guarantees: a window is as long as asked, and a passage as far from its end, within a few tokens: a word is not
cut, and texts that are joined count differently from each by itself.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from el_resources.tokenization import ModelTokenizer

BLANK_LINE = "\n\n"
# Words of letters and digits, and single signs: a ruler of dashes can be cut anywhere.
WORD = re.compile(r"[^\W_]+|[^\w\s]|_")

# Joined texts have fewer or more tokens than their parts; what was missing is asked for again, so many times at most.
TRIES = 4
NEARLY = range(3)


@dataclass(frozen=True)
class Excerpt:
    """A piece of a text, and its tokens by itself."""

    source: str
    text: str
    n_tokens: int


class TextWindows:
    """Cuts texts by tokens of `tokenizer`."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self._joint_tokens = self.count(BLANK_LINE)

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self._tokenizer.encode(text))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by itself."""
        return [len(ids) for ids in self._tokenizer.encode_batch(texts)]

    def start_of(self, source: str, text: str, n_tokens: int) -> Excerpt:
        """As many of a text's first blocks (what blank lines separate) as `n_tokens` hold, counted one by one."""
        blocks = text.strip("\n").split(BLANK_LINE)
        return self._excerpt(source, blocks[: self._n_fitting(blocks, n_tokens)])

    def end_of(self, source: str, text: str, n_tokens: int) -> Excerpt:
        """As many of a text's last blocks as `n_tokens` hold, counted one by one."""
        blocks = text.strip("\n").split(BLANK_LINE)[::-1]
        return self._excerpt(source, blocks[: self._n_fitting(blocks, n_tokens)][::-1])

    def around(
        self, passage: str, ahead: Sequence[Excerpt], behind: Sequence[Excerpt], *, n_tokens: int, n_behind: int
    ) -> tuple[str, int]:
        """A window around a passage, which may be empty.

        Args:
            ahead: what stands before the passage, the nearest first.
            behind: what stands behind it, the nearest first.
            n_tokens: length of the window.
            n_behind: tokens between the end of the passage and the end of the window.

        Returns:
            The window and the tokens behind the passage, with what joins them to it.
        """
        tail = self._filled(behind, n_behind, self._head, lambda texts: BLANK_LINE.join(["", *texts]), fixed="")
        core = (passage + tail).strip("\n")
        window = self._filled(
            ahead, n_tokens, self._tail, lambda texts: BLANK_LINE.join(filter(None, [*texts[::-1], core])), fixed=core
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
        """What `joined` makes of as many texts, nearest first, as give it so many tokens; `fixed` is in it already."""
        room = n_tokens - self.count(fixed)
        for _ in range(TRIES):
            text = joined(self._taken(excerpts, room, cut))
            missing = n_tokens - self.count(text)
            if missing in NEARLY:
                break
            room += missing
        return text

    def _taken(self, excerpts: Sequence[Excerpt], n_tokens: int, cut: Callable[[str, int], str]) -> list[str]:
        """Texts, nearest first, that fill so many tokens with what joins them; the last is cut to fit."""
        taken: list[str] = []
        room = n_tokens
        for excerpt in excerpts:
            if excerpt.n_tokens + self._joint_tokens > room:
                last = cut(excerpt.text, room - self._joint_tokens)
                return [*taken, last] if last else taken
            if excerpt.text:
                taken.append(excerpt.text)
                room -= excerpt.n_tokens + self._joint_tokens
        raise ValueError(f"the texts hold too little for a context of {n_tokens} tokens; use a shorter window")

    def _head(self, text: str, n_tokens: int) -> str:
        """The text's first words, as many as fit."""
        ends = [word.end() for word in WORD.finditer(text)]
        n_words = bisect_right(ends, n_tokens, key=lambda end: self.count(text[:end]))
        return text[: ends[n_words - 1]] if n_words else ""

    def _tail(self, text: str, n_tokens: int) -> str:
        """The text's last words, as many as fit."""
        starts = [word.start() for word in WORD.finditer(text)][::-1]
        n_words = bisect_right(starts, n_tokens, key=lambda start: self.count(text[start:]))
        return text[starts[n_words - 1] :] if n_words else ""

    def _n_fitting(self, blocks: list[str], n_tokens: int) -> int:
        """How many of the first blocks fit, with what joins them."""
        sums = accumulate(count + self._joint_tokens for count in self.counts(blocks))
        return bisect_right(list(sums), n_tokens)

    def _excerpt(self, source: str, blocks: list[str]) -> Excerpt:
        text = BLANK_LINE.join(blocks)
        return Excerpt(source, text, self.count(text))
