"""Generated sections are replaced or added, and nothing else of the text changes."""

import pytest

from benchmarks.results_file import replace_section

TEXT = """\
# Results

## Speed

By hand, before.

### Tables

<!-- speed: a -->

#### a

| 1 |

<!-- end -->

### Reading

By hand, behind.
"""


def test_a_section_is_replaced_and_the_rest_stays() -> None:
    assert replace_section(TEXT, "speed: a", "#### a\n\n| 2 |\n", "### Tables") == TEXT.replace("| 1 |", "| 2 |")


def test_a_new_section_is_added_at_the_end_of_its_heading() -> None:
    added = "<!-- end -->\n\n<!-- speed: b -->\n\n| 3 |\n\n<!-- end -->\n\n### Reading"
    assert replace_section(TEXT, "speed: b", "| 3 |", "### Tables") == TEXT.replace(
        "<!-- end -->\n\n### Reading", added
    )


def test_a_new_section_can_be_the_last_of_the_text() -> None:
    assert (
        replace_section("## Speed\n", "b", "| 3 |", "## Speed") == "## Speed\n\n<!-- b -->\n\n| 3 |\n\n<!-- end -->\n"
    )


def test_the_same_body_again_changes_nothing() -> None:
    once = replace_section(TEXT, "speed: b", "| 3 |", "### Tables")
    assert replace_section(once, "speed: b", "| 3 |", "### Tables") == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("<!-- end -->\n", ""), "<!-- speed: a --> has no end; "),
        (TEXT.replace("<!-- end -->", "<!-- speed: b -->"), "<!-- speed: a --> has no end before <!-- speed: b -->"),
        (TEXT.replace("<!-- speed: a -->\n", ""), "line 14: <!-- end --> ends no section"),
        (TEXT + TEXT, "<!-- speed: a --> is there twice"),
    ],
)
def test_markers_that_do_not_pair_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace_section(text, "speed: a", "| 2 |", "### Tables")


def test_a_missing_heading_is_refused() -> None:
    with pytest.raises(ValueError, match="'### Pictures'"):
        replace_section(TEXT, "speed: b", "| 3 |", "### Pictures")
