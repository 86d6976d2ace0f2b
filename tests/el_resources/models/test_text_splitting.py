from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from el_resources.models.text_splitting import Span, TextSplitter

REFERENCE = Path(__file__).parents[3] / "el_resources" / "reference_models" / "long" / "tokenizer.json"
TOKENIZER = Tokenizer.from_file(str(REFERENCE))


@cache  # building one takes as long as reading the tokenizer
def splitter(tokenizer: Tokenizer, max_tokens: int) -> TextSplitter:
    return TextSplitter(tokenizer, max_tokens)


def split(text: str, tokenizer: Tokenizer, max_tokens: int) -> list[Span]:
    (spans,) = splitter(tokenizer, max_tokens).split_all([text])
    return spans


def check_guarantees(text: str, tokenizer: Tokenizer, max_tokens: int) -> None:
    spans = split(text, tokenizer, max_tokens)
    end_before = 0
    for span in spans:
        chunk = text[span.start_char : span.end_char]
        assert chunk.strip()
        assert len(tokenizer.encode(chunk, add_special_tokens=False).ids) == span.n_tokens <= max_tokens
        assert span.start_char >= end_before
        assert not text[end_before : span.start_char].strip()
        end_before = span.end_char
    assert not text[end_before:].strip()


def test_cuts_at_paragraphs_then_sentences_then_words() -> None:
    text = "Wörter zählen.\n\nOne sentence is here. Another sentence is there.\n\nAn end long enough to stand alone"

    spans = split(text, TOKENIZER, 10)

    assert [text[s.start_char : s.end_char] for s in spans] == [
        "Wörter zählen.",
        "One sentence is here.",
        "Another sentence is there.",
        "An end long enough to stand alone",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t \r\n",
        "x" * 10_000,
        "👩‍👩‍👧‍👦🇩🇪e\u0301" * 300,
        "a b c.\r\n\r\nd\r\n" * 500,
        "\0" * 2_000,
        "\u200b" * 2_000,
        "\ufeffabc " * 200,
        "a\x0cb\x1c\x85\u2028\u3000 " * 200,
        "\x1c\x1d\x1e\x1f",
        "漢字" * 2_000,
        "<|endoftext|>" * 200,
    ],
    ids=[
        "empty",
        "blank",
        "one-word",
        "emoji",
        "crlf",
        "nul",
        "zero-width",
        "bom",
        "odd-space",
        "separators",
        "han",
        "eot",
    ],
)
@pytest.mark.parametrize("max_tokens", [8, 128])
def test_guarantees_hold_for_pathological_texts(text: str, max_tokens: int) -> None:
    check_guarantees(text, TOKENIZER, max_tokens)


@settings(deadline=None, max_examples=150)
@given(text=st.text() | st.text(alphabet="aB .\n\r\té漢😀\u0301\x1c-_"), max_tokens=st.sampled_from([8, 13, 40]))
def test_guarantees_hold_for_any_text(text: str, max_tokens: int) -> None:
    check_guarantees(text * 3, TOKENIZER, max_tokens)


def test_special_tokens_written_in_a_text_are_counted_as_the_given_tokenizer_reads_them() -> None:
    plain = Tokenizer.from_file(str(REFERENCE))
    plain.encode_special_tokens = True  # "<|endoftext|>" is then several ordinary tokens
    text = "<|endoftext|> and more " * 100

    check_guarantees(text, plain, 16)

    assert len(split(text, plain, 16)) > len(split(text, TOKENIZER, 16))


def test_truncation_and_padding_of_the_tokenizer_do_not_hide_lengths() -> None:
    capped = Tokenizer.from_file(str(REFERENCE))
    capped.enable_truncation(4)
    capped.enable_padding(length=64)
    text = "one two three four five six. " * 50

    assert split(text, capped, 32) == split(text, TOKENIZER, 32)


def test_many_texts_at_once_are_split_as_one_by_one() -> None:
    texts = ["", "A short one.", "A longer one.\n\n" * 60, " "]

    assert splitter(TOKENIZER, 32).split_all(texts) == [split(text, TOKENIZER, 32) for text in texts]


def test_a_limit_below_one_character_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens=7"):
        TextSplitter(TOKENIZER, 7)


DIGITS = "".join(f"{number * 2654435761 % 2**32:08x}" for number in range(12_000))
LONG_TEXTS = {
    "hex": DIGITS,
    "ints": ",".join(DIGITS[i : i + 3] for i in range(0, 60_000, 3)),
    "dna": "".join("acgt"[int(digit, 16) % 4] for digit in DIGITS),
    "han": "漢字文章標準" * 10_000,
    "accents": "a" + "\u0301" * 80_000,
    "prose-around": "Prose before it. " * 50 + DIGITS + " and prose after it." * 50,
    "one-line": "alpha beta of the network returns " * 3_000,
    "runs-and-spaces": (DIGITS[:3000] + " " * 40_000) * 3,
    "question-marks": "a=b?c=d" * 10_000,
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_guarantees_hold_for_long_texts_and_long_words(text: str) -> None:
    check_guarantees(text, TOKENIZER, 64)


@pytest.mark.parametrize("name", ["hex", "ints", "dna", "han"])
def test_a_long_word_fills_its_chunks(name: str) -> None:
    spans = split(LONG_TEXTS[name], TOKENIZER, 64)
    assert sum(span.n_tokens for span in spans) / len(spans) > 0.6 * 64


def test_what_is_tokenized_is_linear_in_the_length_of_a_word() -> None:
    """Tokens are what cutting costs. Left to the splitter, a word of twice the length costs four times as much."""
    counted: list[int] = []

    def count(chunks: list[str]) -> list[int]:
        counted.extend(map(len, chunks))
        return [len(encoding) for encoding in TOKENIZER.encode_batch_fast(chunks, add_special_tokens=False)]

    cutter = TextSplitter(TOKENIZER, 64, count)
    cutter._splitter = SimpleNamespace(chunk_all_indices=lambda texts: [[] for _ in texts])  # no long word reaches it
    cutter.split_all([DIGITS])
    assert sum(counted) < 5 * len(DIGITS)


@pytest.mark.parametrize("joint", ["\n\n\n", "\n\n", "\n", " "])
def test_windows_change_no_chunk_of_a_long_text(joint: str) -> None:
    """Long prose is cut as the splitter cuts the whole of it, whatever its paragraphs are."""
    text = joint.join(
        f"{word} is number {n}. It follows {n - 1}." for n, word in enumerate(["This", "The next"] * 1500)
    )
    whole = splitter(TOKENIZER, 64)._splitter.chunk_indices(text)

    spans = split(text, TOKENIZER, 64)

    assert len(text) > 5 * 8_192
    assert [(span.start_char, text[span.start_char : span.end_char]) for span in spans] == whole
