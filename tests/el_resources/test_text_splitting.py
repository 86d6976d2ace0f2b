from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from el_resources.text_splitting import Span, TextSplitter

REFERENCE = Path(__file__).parents[2] / "el_resources" / "reference_models" / "long" / "tokenizer.json"
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
