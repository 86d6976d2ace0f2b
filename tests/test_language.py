"""Docstrings begin with a verb or a noun, and prose uses plain words."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("el_assets", "el_resources", "benchmarks", "docs", "examples", "tests")
HEADLESS = re.compile(r"(What|Whether|Those|Where|Which|How|Who|Whose|Whom|Why)\b")
# Phrases in which such a word has its literal meaning.
MEANT = re.compile(r"behind (a|the|its|this) (reverse )?(proxy|door|load balancer)\b")
UNPLAIN = re.compile(r"\b(so many|beside|behind)\b")


def python_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and (text := ast.get_docstring(node, clean=False)):
                yield first.lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def headless(source: str) -> list[int]:
    """Return the lines of docstrings that begin with a relative or question word."""
    return [line for line, text in docstrings(source) if HEADLESS.match(text.lstrip())]


def unplain(source: str) -> list[int]:
    """Return the lines of docstrings and comments that have a word of UNPLAIN."""
    return [
        line + text.count("\n", 0, found.start())
        for line, text in [*docstrings(source), *comments(source)]
        for found in UNPLAIN.finditer(text)
        if not MEANT.match(text, found.start())
    ]


def places(path: Path, lines: list[int]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{line}" for line in lines]


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    files = python_files()
    assert len(files) > 100
    assert [place for path in files for place in places(path, headless(path.read_text()))] == []


def test_docstrings_and_comments_use_plain_words() -> None:
    assert [place for path in python_files() for place in places(path, unplain(path.read_text()))] == []


@pytest.mark.parametrize(
    ("source", "n_headless", "n_unplain"),
    [
        ('"""What it costs."""', 1, 0),
        ('def f():\n    """Whether it is so."""', 1, 0),
        ('"""Whatever follows is returned."""', 0, 0),
        ('"""Return it; read so many tokens."""', 0, 1),
        ("x = 1  # the one beside it", 0, 1),
        ('"""A server behind a proxy, and one behind another."""', 0, 1),
        ('text = "What is beside it?"', 0, 0),
    ],
)
def test_faults_are_found(source: str, n_headless: int, n_unplain: int) -> None:
    assert (len(headless(source)), len(unplain(source))) == (n_headless, n_unplain)
