"""Texts longer than an encoder's window: split so that all of the text counts, or refused.

An encoder embeds the head of such a text and silently drops the rest. So a text is halved, near a space, until every
part fits; its vector is the mean of its parts' vectors, weighted by their tokens and scaled to length 1. A text that
fits keeps the encoder's vector. Tokens are counted by the encoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from el_resources.configuration.fields.entropylong import LongTexts
from el_resources.models.text_encoder import OnProgress, TextEncoder, Vectors, unit_rows
from el_resources.models.text_splitting import boundary_near_middle

# Largest share of the tokens that may be lost under `refuse`.
MOST_LOST = 0.01


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """Amount of text beyond the window of an encoder.

    Attributes:
        window: number of tokens of a text that the encoder reads; None if there is no limit.
        n_texts, n_longer: number of texts, and number of texts longer than the window.
        n_tokens, n_tokens_beyond: number of tokens, and number of tokens beyond the window; 0 without a window.
    """

    window: int | None
    n_texts: int
    n_longer: int
    n_tokens: int
    n_tokens_beyond: int

    @property
    def share(self) -> float:
        """Share of all tokens that are beyond the window."""
        return self.n_tokens_beyond / self.n_tokens if self.n_tokens else 0.0

    def facts(self) -> dict[str, object]:
        """Return the facts for a stamp."""
        return {
            "encoder_window": self.window,
            "chunks_beyond_window": self.n_longer,
            "share_beyond_window": round(self.share, 4),
        }

    def described(self, encoder: str) -> str:
        return (
            f"{self.n_longer:,} of {self.n_texts:,} texts are longer than the {self.window} tokens that {encoder!r} "
            f"reads; {self.share:.1%} of their text is beyond"
        )


def encode_whole(
    encoder: TextEncoder, texts: Sequence[str], long_texts: LongTexts, on_progress: OnProgress | None = None
) -> tuple[Vectors, Beyond]:
    """Return vectors `[len(texts), dimension]`, and the amount of text that is beyond the encoder's window.

    Args:
        long_texts: `split` encodes a long text in parts. `refuse` drops the tokens beyond the window, and raises an
            error if these are more than 1 % of all.
        on_progress: called with the number of texts done since its last call.

    Raises:
        ValueError: too much would be lost under `refuse`.
    """
    window = encoder.window_tokens
    counts = encoder.count_tokens(texts) if window is not None else [0] * len(texts)
    longer = [index for index, count in enumerate(counts) if window is not None and count > window]
    beyond = Beyond(
        window=window,
        n_texts=len(texts),
        n_longer=len(longer),
        n_tokens=sum(counts),
        n_tokens_beyond=sum(counts[index] - (window or 0) for index in longer),
    )
    if long_texts == "refuse" and beyond.share > MOST_LOST:
        raise ValueError(
            f"{beyond.described(encoder.name)}, and at most {MOST_LOST:.0%} may be lost; lower EL_CHUNK_TOKENS, or set "
            "EL_LONG_CHUNKS=split"
        )
    if long_texts == "refuse" or not longer:
        return encoder.encode(texts, on_progress), beyond
    return _encode_in_parts(encoder, texts, set(longer), on_progress), beyond


def _encode_in_parts(
    encoder: TextEncoder, texts: Sequence[str], longer: set[int], on_progress: OnProgress | None
) -> Vectors:
    parts = [list(_parts(encoder, text)) if index in longer else [(text, 1)] for index, text in enumerate(texts)]
    flat = [part for listed in parts for part, _ in listed]
    weights = np.array([weight for listed in parts for _, weight in listed], dtype=np.float32)
    owners = np.repeat(np.arange(len(texts)), [len(listed) for listed in parts])
    # A part counts as a share of its text, so that progress counts texts.
    done = np.cumsum([1 / len(listed) for listed in parts for _ in listed])
    at = 0

    def advance(n_parts: int) -> None:
        nonlocal at
        before, at = (int(done[at - 1] + 1e-6) if at else 0), at + n_parts
        if on_progress:
            on_progress(int(done[at - 1] + 1e-6) - before)

    vectors_PD = encoder.encode(flat, advance)
    whole = np.zeros((len(texts), encoder.dimension), dtype=np.float32)
    np.add.at(whole, owners, vectors_PD * weights[:, None])
    alone = np.array([len(listed) == 1 for listed in parts], dtype=bool)
    starts = np.cumsum([0, *(len(listed) for listed in parts[:-1])])
    whole[alone] = vectors_PD[starts[alone]]
    whole[~alone] = unit_rows(whole[~alone])
    return whole


def _parts(encoder: TextEncoder, text: str) -> Iterator[tuple[str, int]]:
    """Yield the parts of a text that fit the window, each with its number of tokens."""
    (n_tokens,) = encoder.count_tokens([text])
    if n_tokens <= (encoder.window_tokens or n_tokens) or len(text) < 2:
        yield text, n_tokens
        return
    middle = boundary_near_middle(text)
    for half in (text[:middle], text[middle:]):
        if half.strip():
            yield from _parts(encoder, half)
