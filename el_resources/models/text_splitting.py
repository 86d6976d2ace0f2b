"""Splitting of documents into retrieval chunks of at most `max_tokens` tokens, at text boundaries.

Algorithm: `semantic-text-splitter` fills each chunk with the largest units that fit (paragraphs by number of blank
lines, then lines, sentences, words, grapheme clusters, characters) and trims white space around it. For every chunk it
reads all of the remaining text, which takes quadratic time, so a long text is split window by window: the last chunk of
a window is dropped and the next window begins there, which gives the chunks of the whole text. The splitter also tries
every position in a run without white space or the end of a sentence (hex digits, base64, DNA, an array of numbers). So
a run that is longer than any ordinary word is cut here, by the number of characters per token that it has itself.

Guarantees, for every text:
- `text[span.start_char:span.end_char]` is the chunk; offsets count characters, as Python does.
- A chunk that is tokenized alone, without special tokens, has `span.n_tokens` tokens, at most `max_tokens`. The
  splitter counts with its own copy of the tokenizer, so every chunk is counted again here, and cut again if it is
  longer than the splitter counted.
- Spans are in order and do not overlap; the text between them is white space; no chunk is blank.
- The same text gives the same spans.

Cost on 2 cores: about 350,000 tokens/s for many texts at once and 200,000 for one at a time, linear in the length of a
text (benchmarks/results/hard_texts.md). Building a splitter takes as long as reading the tokenizer, so build one for
all texts.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from semantic_text_splitter import TextSplitter as BoundarySplitter
from tokenizers import Tokenizer

# The longest character: up to 4 bytes that are a token each, and in some tokenizers a prefix token.
FEWEST_TOKENS = 8
# Characters per token of the limit, and least characters, of a window (it holds many chunks) and of a run (longer than
# any ordinary word).
WINDOW_CHARS_PER_TOKEN, SHORTEST_WINDOW = 64, 8_192
RUN_CHARS_PER_TOKEN, SHORTEST_RUN = 8, 1024
# Bounds memory: counting a chunk takes some 100 bytes a token.
COUNTED_AT_ONCE = 1024
# Share of the limit that a piece of a run should fill; with less than all of it, few pieces are cut again.
FILLED = 0.9

_IN_RUN = r"[^\s。｡!！?？…]"

Count = Callable[[list[str]], list[int]]
Chunk = tuple[int, str]  # first character in the text, text


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk's place in its document, and its length."""

    start_char: int
    end_char: int
    n_tokens: int


class TextSplitter:
    """Splitter of texts into chunks of at most `max_tokens` tokens of `tokenizer`.

    Args:
        tokenizer: it is copied without its truncation and padding, which would hide a chunk's true length.
        max_tokens: at least 8, so that any single character fits.
        count: returns the number of tokens of each text, if the tokenizer itself does not count as the model reads (see
            ModelTokenizer.count_batch).

    Example:
        >>> from el_resources.models.model_files import resolve_model
        >>> tokenizer = Tokenizer.from_file(str(resolve_model("reference:long") / "tokenizer.json"))
        >>> splitter = TextSplitter(tokenizer, max_tokens=8)
        >>> text = "The first sentence is here. The second one follows."
        >>> [(text[span.start_char : span.end_char], span.n_tokens) for span in splitter.split_all([text])[0]]
        [('The first sentence is here.', 7), ('The second one follows.', 5)]
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, count: Count | None = None) -> None:
        if max_tokens < FEWEST_TOKENS:
            raise ValueError(f"max_tokens={max_tokens} is too small to hold any character; use {FEWEST_TOKENS} or more")
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # Not part of a tokenizer's JSON: true if "<|endoftext|>" in a text is plain characters, not one token.
        self._tokenizer.encode_special_tokens = tokenizer.encode_special_tokens
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._count_tokens = count or self._own_count
        self._splitter = BoundarySplitter.from_huggingface_tokenizer(self._tokenizer, max_tokens)
        self._window = max(SHORTEST_WINDOW, WINDOW_CHARS_PER_TOKEN * max_tokens)
        shortest = max(SHORTEST_RUN, RUN_CHARS_PER_TOKEN * max_tokens)
        # The pattern is tried at the beginning of a run only, so that the search is linear.
        self._long_run = re.compile(f"(?<!{_IN_RUN}){_IN_RUN}{{{shortest},}}")

    def split_all(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the chunks of each text; uses all cores."""
        found = self._chunks(list(texts))
        flat = [chunk for chunks in found for _, chunk in chunks]
        blocks = (flat[start : start + COUNTED_AT_ONCE] for start in range(0, len(flat), COUNTED_AT_ONCE))
        counts = (count for block in blocks for count in self._count_tokens(block))
        return [
            [span for start, chunk in chunks for span in self._within_limit(start, chunk, next(counts))]
            for chunks in found
        ]

    def _chunks(self, texts: list[str]) -> list[list[Chunk]]:
        """Return the chunks of each text before they are counted; some may be too long."""
        ordinary = [len(text) <= self._window and not self._long_run.search(text) for text in texts]
        together = iter(
            self._splitter.chunk_all_indices([t for t, plain in zip(texts, ordinary, strict=True) if plain])
        )
        return [
            next(together) if plain else list(self._chunks_of_long(text))
            for text, plain in zip(texts, ordinary, strict=True)
        ]

    def _chunks_of_long(self, text: str) -> Iterator[Chunk]:
        at = 0
        for run in self._long_run.finditer(text):
            yield from self._window_chunks(text, at, run.start())
            yield from self._run_chunks(text, run.start(), run.end())
            at = run.end()
        yield from self._window_chunks(text, at, len(text))

    def _window_chunks(self, text: str, start: int, end: int) -> Iterator[Chunk]:
        """Yield the chunks of a stretch, window by window.

        A window's last chunk is dropped, since the text after the window could lengthen it; the next window begins
        there.
        """
        width = self._window
        while start < end:
            # Split one window.
            part = text[start : min(start + width, end)]
            chunks = self._splitter.chunk_indices(part)
            if start + width >= end:
                yield from ((start + offset, chunk) for offset, chunk in chunks)
                return
            # Widen empty windows.
            if len(chunks) < 2:  # almost only white space
                width *= 2
                continue
            # Keep all but last.
            yield from ((start + offset, chunk) for offset, chunk in chunks[:-1])
            start, width = start + chunks[-1][0], self._window

    def _run_chunks(self, text: str, start: int, end: int) -> Iterator[Chunk]:
        """Yield pieces of a long run that fill most of the limit and, if possible, end after punctuation."""
        while start < end:
            # Estimate the length.
            sample = text[start : min(start + RUN_CHARS_PER_TOKEN * self.max_tokens, end)]
            (n_tokens,) = self._count_tokens([sample])
            length = max(1, int(len(sample) / max(1, n_tokens) * self.max_tokens * FILLED))
            # Cut eight pieces, then estimate anew.
            for _ in range(8):
                piece = text[start : min(start + length, end)]
                if start + len(piece) < end:
                    piece = piece[: _after_last_sign(piece)]
                if not piece:
                    return
                yield start, piece
                start += len(piece)

    def _own_count(self, chunks: list[str]) -> list[int]:
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(chunks, add_special_tokens=False)]

    def _within_limit(self, start: int, chunk: str, n_tokens: int) -> Iterator[Span]:
        """Yield the chunk as one span, or halve it if it is longer than the splitter counted."""
        if not chunk.strip():
            return
        if n_tokens <= self.max_tokens:
            yield Span(start, start + len(chunk), n_tokens)
            return
        if len(chunk) == 1:
            raise ValueError(
                f"the character {chunk!r} alone has {n_tokens} tokens; raise max_tokens={self.max_tokens} "
                f"to at least {n_tokens}"
            )
        middle = boundary_near_middle(chunk)
        for offset, half in ((0, chunk[:middle]), (middle, chunk[middle:])):
            lead = len(half) - len(half.lstrip())
            trimmed = half.strip()
            yield from self._within_limit(start + offset + lead, trimmed, self._count_tokens([trimmed])[0])


def boundary_near_middle(chunk: str) -> int:
    """Return the position at which a text is halved: after the last space of its first half, else in the middle."""
    middle = len(chunk) // 2
    space = chunk.rfind(" ", 1, middle)
    return space + 1 if space > 0 else middle


def _after_last_sign(piece: str) -> int:
    """Return where to end a piece of a run: after the last punctuation in its last quarter, else at its end."""
    for end in range(len(piece), max(1, len(piece) * 3 // 4), -1):
        if not piece[end - 1].isalnum():
            return end
    return len(piece)
