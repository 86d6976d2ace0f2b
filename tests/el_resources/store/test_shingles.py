import pytest

from el_resources.store.shingles import containment, shingles

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


# Two sentences of about 30 characters and the same with one word changed, by hand.
NEAR_COPIES = {
    "English": (
        "The relay accepts nine commands and confirms every one of them with its own number before it goes on.",
        "The relay accepts nine commands and confirms every one of them with its own letter before it goes on.",
    ),
    "Chinese": (
        "这个继电器一共接受九条命令，并且在继续之前会用它自己的编号逐一确认每一条命令，然后才开始工作。",
        "这个继电器一共接受九条命令，并且在继续之前会用它自己的字母逐一确认每一条命令，然后才开始工作。",
    ),
    "Japanese": (
        "この中継器は九つの命令を受け付け、次に進む前に自分の番号でそれぞれの命令を確認してから動作を始めます。",
        "この中継器は九つの命令を受け付け、次に進む前に自分の文字でそれぞれの命令を確認してから動作を始めます。",
    ),
    "Thai": (
        "รีเลย์นี้รับคำสั่งได้เก้าคำสั่งและยืนยันทุกคำสั่งด้วยหมายเลขของตัวเองก่อนที่จะทำงานต่อไป",
        "รีเลย์นี้รับคำสั่งได้เก้าคำสั่งและยืนยันทุกคำสั่งด้วยตัวอักษรของตัวเองก่อนที่จะทำงานต่อไป",
    ),
}


@pytest.mark.parametrize("language", NEAR_COPIES)
def test_near_copies_are_told_in_scripts_without_spaces_too(language: str) -> None:
    root, copy = NEAR_COPIES[language]
    others = [other for name, (other, _) in NEAR_COPIES.items() if name != language]

    assert 0.6 < containment(shingles(copy), shingles(root)) < 1
    assert all(containment(shingles(other), shingles(root)) == 0 for other in others)


def test_a_character_of_a_script_without_spaces_is_a_word() -> None:
    assert shingles("火星a5の，土") == {("火", "星", "a5", "の", "土")}
    # Spaced scripts, signs and digits are as they were: runs of \w.
    assert shingles("foo_bar don't 12é привет") == {
        ("foo_bar", "don", "t", "12é", "привет"),
    }
