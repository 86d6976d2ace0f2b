"""Documents cut into retrieval chunks of at most so many tokens, at text boundaries.

Algorithm: `semantic-text-splitter` fills each chunk with the largest units that fit (paragraphs by number of blank
lines, then lines, sentences, words, grapheme clusters, characters) and trims white space around it.

Guarantees, for every text:
- `text[span.start_char:span.end_char]` is the chunk; offsets count characters, as Python does.
- A chunk tokenized by itself, without special tokens, has `span.n_tokens` tokens, at most `max_tokens`. The splitter
  counts with its own copy of the tokenizer, so every chunk is counted again here, and cut again where the two disagree.
- Spans are in order and do not overlap; what lies between them is white space; no chunk is blank.
- The same text gives the same spans.

Cost: about 350,000 tokens/s for many texts at once and 200,000 for one by one, on 2 cores. Building a splitter takes
as long as reading the tokenizer, so build one for all texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semantic_text_splitter import TextSplitter as BoundarySplitter
from tokenizers import Tokenizer

# A character is the smallest unit: up to 4 bytes, each a token of its own, and a prefix token in some tokenizers.
FEWEST_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk's place in its document and its length."""

    start_char: int
    end_char: int
    n_tokens: int


class TextSplitter:
    """Cuts texts into chunks of at most `max_tokens` tokens of `tokenizer`.

    Args:
        tokenizer: copied; its truncation and padding are ignored, since either would hide a chunk's true length.
        max_tokens: at least 8, so that any single character fits.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        if max_tokens < FEWEST_TOKENS:
            raise ValueError(f"max_tokens={max_tokens} is too small to hold any character; use {FEWEST_TOKENS} or more")
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        # Not part of a tokenizer's JSON: whether "<|endoftext|>" in a text is one token or plain characters.
        self._tokenizer.encode_special_tokens = tokenizer.encode_special_tokens
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._splitter = BoundarySplitter.from_huggingface_tokenizer(self._tokenizer, max_tokens)

    def split_all(self, texts: Sequence[str]) -> list[list[Span]]:
        """The chunks of each text; uses all cores."""
        found = self._splitter.chunk_all_indices(list(texts))
        flat = [chunk for chunks in found for _, chunk in chunks]
        counts = iter(self._count_tokens(flat))
        return [
            [span for start, chunk in chunks for span in self._within_limit(start, chunk, next(counts))]
            for chunks in found
        ]

    def _count_tokens(self, chunks: list[str]) -> list[int]:
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(chunks, add_special_tokens=False)]

    def _within_limit(self, start: int, chunk: str, n_tokens: int) -> Iterator[Span]:
        """The chunk as one span, or cut in halves where it is longer than the splitter believed."""
        if not chunk.strip():
            return
        if n_tokens <= self.max_tokens:
            yield Span(start, start + len(chunk), n_tokens)
            return
        if len(chunk) == 1:
            raise ValueError(
                f"the character {chunk!r} alone has {n_tokens} tokens; raise max_tokens={self.max_tokens} to that"
            )
        middle = _boundary_near_middle(chunk)
        for offset, half in ((0, chunk[:middle]), (middle, chunk[middle:])):
            lead = len(half) - len(half.lstrip())
            trimmed = half.strip()
            yield from self._within_limit(start + offset + lead, trimmed, self._count_tokens([trimmed])[0])


def _boundary_near_middle(chunk: str) -> int:
    """Where to halve a chunk: behind the last space of its first half, else in the middle."""
    middle = len(chunk) // 2
    space = chunk.rfind(" ", 1, middle)
    return space + 1 if space > 0 else middle
