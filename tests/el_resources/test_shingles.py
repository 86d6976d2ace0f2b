import pytest

from el_resources.shingles import containment, shingles

ROOT = "the root speaks of one thing and then of another thing entirely"


def test_runs_of_five_words_without_case_or_punctuation() -> None:
    assert shingles("One, two: THREE four five-six") == {
        ("one", "two", "three", "four", "five"),
        ("two", "three", "four", "five", "six"),
    }


def test_a_short_text_is_one_shingle_and_no_words_none() -> None:
    assert shingles("only Three words") == {("only", "three", "words")}
    assert shingles(" -- !? ") == frozenset() == shingles("")


@pytest.mark.parametrize(
    ("chunk", "share"),
    [
        (ROOT, 1.0),
        ("speaks of one thing and then", 1.0),  # an excerpt: 2 of its 2
        ("speaks of one thing and never", 0.5),
        ("nothing in common with the above", 0.0),
        ("?!", 0.0),
    ],
)
def test_containment_is_the_share_of_the_chunks_shingles(chunk: str, share: float) -> None:
    assert containment(shingles(chunk), shingles(ROOT)) == share
