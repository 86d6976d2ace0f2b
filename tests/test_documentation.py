"""What the documents promise about settings and modules exists."""

import re
import runpy
from pathlib import Path
from typing import Literal, get_args, get_origin

from el_resources.settings import Settings

ROOT = Path(__file__).parents[1]


def test_every_setting_stands_in_the_example_with_its_default() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    found = dict(re.fullmatch(r"# EL_(\w+)=(.*)", line).groups() for line in lines if line.startswith("# EL_"))  # type: ignore[union-attr]
    assert {name.lower() for name in found} == set(Settings.model_fields)
    for name, text in found.items():
        value = Settings.model_fields[name.lower()].default
        shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
        assert text == ('"\\n\\n"' if value == "\n\n" else str(shown)), name


def test_every_setting_of_the_example_is_described_as_in_the_launchpad_with_bounds_and_choices() -> None:
    _, *blocks = (ROOT / ".env.example").read_text().strip().split("\n\n")
    for *comment, assignment in map(str.splitlines, blocks):
        field = Settings.model_fields[assignment.removeprefix("# EL_").partition("=")[0].lower()]
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        expected = f"{field.description} One of: {', '.join(choices)}." if choices else field.description
        assert " ".join(line.removeprefix("# ") for line in comment) == expected, assignment


def test_the_page_of_settings_is_the_one_that_the_settings_make() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))["page"]()
    assert (ROOT / "docs" / "settings.md").read_text() == page, "run docs/make_settings.py"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 800


def test_every_link_leads_to_a_file() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(((?!https?:)[^)#]+)[^)]*\)", page.read_text())]
    assert len(links) > 10
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
