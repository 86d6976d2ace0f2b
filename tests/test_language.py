"""The language of docstrings: a verb or a noun first, and plain words (CONTRIBUTING.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("el_assets", "el_resources", "benchmarks", "docs", "examples", "tests")
# Words that begin a clause without its noun.
HEADLESS = re.compile(r"(What|Whether|Those|These|That|Where|Which|How|Who|Whose|Whom|Why)\b")
# Word -> the plain one.
PLAIN = {"so many": "n", "beside": "next to, with, besides", "lies": "is, is stored", "stands": "is, occurs"}


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every docstring."""
    for path in sorted(found for folder in FOLDERS for found in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_described = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if is_described and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", text


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    found = list(docstrings())
    assert len(found) > 1500
    assert [f"{place}: {text.splitlines()[0]}" for place, text in found if HEADLESS.match(text)] == []


def test_docstrings_have_plain_words() -> None:
    assert [
        f"{place}: {word!r}, better: {plain}"
        for place, text in docstrings()
        for word, plain in PLAIN.items()
        if re.search(rf"\b{word}\b", text)
    ] == []
