"""The settings and modules that documents name exist."""

import re
import runpy
from pathlib import Path

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


def test_the_files_that_list_settings_are_those_that_the_settings_make() -> None:
    files = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))["files"]()
    assert len(files) == 3
    assert [path.name for path, text in files.items() if path.read_text() != text] == [], "run `make settings`"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 800


def test_every_link_leads_to_a_file() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(((?!https?:)[^)#]+)[^)]*\)", page.read_text())]
    assert len(links) > 10
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
