from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from el_resources.models.model_files import resolve_model
from el_resources.models.tokenization import ModelTokenizer
from el_resources.sources.text_windows import Excerpt, TextWindows


@cache
def windows() -> TextWindows:
    return TextWindows(ModelTokenizer.from_folder(resolve_model("reference:long")))


def excerpt(text: str) -> Excerpt:
    return Excerpt("source", text, windows().count(text))


def test_an_excerpt_is_whole_blocks_from_either_end() -> None:
    text = "one two\n\nthree four\n\nfive six\n\nseven eight"
    # Counted by block, each with the blank line that joins it.
    n_tokens = windows().count("one two") + 1 + windows().count("three four") + 1
    assert windows().start_of("source", text, n_tokens) == excerpt("one two\n\nthree four")
    assert windows().start_of("source", text, n_tokens - 1).text == "one two"
    n_tokens = windows().count("five six") + 1 + windows().count("seven eight") + 1
    assert windows().end_of("source", text, n_tokens).text == "five six\n\nseven eight"
    assert windows().end_of("source", text, 1) == excerpt("")
    assert windows().start_of("source", text, 1000).text == windows().end_of("source", text, 1000).text == text


def test_a_window_reads_on_from_text_to_text_around_its_passage() -> None:
    before = [excerpt("the nearest text before"), excerpt("a text - - - - further before")]
    after = [excerpt("the nearest text after"), excerpt("a text that is further after")]
    n_after = windows().count("\n\nthe nearest text after\n\na text")
    core = "PASSAGE\n\nthe nearest text after\n\na text"
    n_tokens = windows().count(f"- - further before\n\nthe nearest text before\n\n{core}")
    window = windows().around("PASSAGE", before, after, n_tokens=n_tokens, n_after=n_after)
    assert window == (f"- - further before\n\nthe nearest text before\n\n{core}", n_after)


def test_a_passage_at_the_end_and_none_at_all() -> None:
    texts = [excerpt("word " * 50)]
    window, n_after = windows().around("PASSAGE", texts, texts, n_tokens=20, n_after=0)
    assert window.endswith("word \n\nPASSAGE")
    assert n_after == 0
    window, n_after = windows().around("", texts, texts, n_tokens=20, n_after=9)
    assert set(window.split()) == {"word"}
    assert 0 < n_after <= 9
    window, _ = windows().around("", texts, texts, n_tokens=20, n_after=0)
    assert not window.endswith("\n")


def test_too_little_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="too short for a context of 50 tokens; use a shorter window"):
        windows().around("PASSAGE", [excerpt("short")], [excerpt("short")], n_tokens=60, n_after=50)


words = st.text("ab=_ \n.é\U0001f600", min_size=1, max_size=12)
passages = words.map(str.strip).filter(bool)


@settings(deadline=None)  # tokenizes, on machines of any load
@given(passages, st.lists(words, min_size=1, max_size=30), st.integers(0, 60), st.integers(80, 200))
def test_windows_are_as_long_as_asked(passage: str, pieces: list[str], wanted: int, n_tokens: int) -> None:
    texts = [excerpt(piece) for piece in pieces]
    # Enough of it for any window.
    texts += [excerpt("filler text, " * 99)]
    window, n_after = windows().around(passage, texts, texts, n_tokens=n_tokens, n_after=wanted)
    assert passage in window
    assert abs(windows().count(window) - n_tokens) <= 8
    assert abs(n_after - wanted) <= 8
