"""Names in words."""

import pytest

from el_resources.listed_names import listed


@pytest.mark.parametrize(
    ("names", "shown", "words"),
    [
        ("abcde", 5, "a, b, c, d, e"),
        ("abcdefg", 5, "a, b, c, d, e and 2 more"),
        (["b,c", "a"], 1, '"b,c" and 1 more'),
        ("abcdefg", None, "a, b, c, d, e, f, g"),
        ("", 5, "none"),
    ],
)
def test_the_first_names_are_given_and_the_others_counted(names: list[str], shown: int | None, words: str) -> None:
    assert listed(names, shown) == words
