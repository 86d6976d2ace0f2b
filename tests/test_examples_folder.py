"""Each example runs from top to bottom, and docs/engine.md shows the code and what it prints."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "engine.md").read_text()
SHOWN = dict(re.findall(r"\[`?(\w+\.py)`?\]\(\.\./examples/.*?```text\n(.*?)```", PAGE, flags=re.DOTALL))


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_the_page_shows_what_an_example_prints(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out == SHOWN[example.name]


def test_the_code_on_the_page_is_that_of_the_examples() -> None:
    code = {path: path.read_text() for path in (ROOT / "examples").glob("*.py")}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        assert any(block.strip() in text for text in code.values()), block


def test_the_page_is_short_and_wrapped() -> None:
    lines = PAGE.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []
