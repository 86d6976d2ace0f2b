"""The bound of a file's bad rows, by hand-counted files on both sides of it."""

import pytest

from el_resources.sources.bad_rows import HOPELESS_ROWS, within_share
from el_resources.sources.contracts import CorruptShardError, SourceDocument


def rows(kinds: str) -> list[SourceDocument]:
    """A row for each letter: g is good, e is set aside for its content, b cannot be read."""
    reasons = {"g": None, "e": "empty", "b": "not_json"}
    return [
        SourceDocument(source_id=None, text="", set_aside_reason=reasons[kind], detail=f"line {n} is {kind}")
        for n, kind in enumerate(kinds, start=1)
    ]


def checked(kinds: str, max_share: float) -> int:
    return len(list(within_share(rows(kinds), max_share=max_share, shard="s", path="p")))


@pytest.mark.parametrize(
    ("kinds", "max_share"),
    [
        ("", 0.0),
        ("gb", 0.0),  # one always may
        ("eb", 0.01),
        ("e" * 5, 0.0),
        ("bb" + "g" * 198, 0.01),  # 2 of 200
        ("g" * 198 + "bb", 0.01),
        ("b" * 99 + "g", 1.0),
    ],
)
def test_a_share_of_bad_rows_is_let_through(kinds: str, max_share: float) -> None:
    assert checked(kinds, max_share) == len(kinds)


@pytest.mark.parametrize(
    ("kinds", "max_share", "message"),
    [
        ("b", 1.0, r"none of the 1 rows that were read is good: line 1 is b$"),
        ("bbbb", 1.0, r"none of the 4 rows that were read is good: line 1 is b; line 2 is b; line 3 is b; …"),
        ("gbb", 0.0, r"2 of its 3 rows cannot be read \(66\.67%; EL_BAD_ROWS_MAX_SHARE=0 allows 1\): line 2 is b"),
        (
            "bbb" + "g" * 197,
            0.01,
            r"3 of its 200 rows cannot be read \(1\.50%; EL_BAD_ROWS_MAX_SHARE=0\.01 allows 2\): line 1 is b; "
            r"line 2 is b; line 3 is b; repair them, or raise EL_BAD_ROWS_MAX_SHARE",
        ),
    ],
)
def test_more_are_refused_with_their_number_the_first_ones_and_the_remedy(
    kinds: str, max_share: float, message: str
) -> None:
    with pytest.raises(CorruptShardError, match=message):
        checked(kinds, max_share)


def test_a_file_without_a_good_row_is_not_read_to_its_end() -> None:
    taken = iter(rows("b" * (HOPELESS_ROWS + 5)))
    with pytest.raises(CorruptShardError, match="none of the 10,000 rows that were read is good"):
        list(within_share(taken, max_share=1.0, shard="s", path="p"))
    assert len(list(taken)) == 5
