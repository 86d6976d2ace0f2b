"""Examples in docstrings show the output that the code gives."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [file for package in ("el_assets", "el_resources") for file in sorted((ROOT / package).rglob("*.py"))]
WITH_EXAMPLES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES if ">>> " in file.read_text("utf-8")
]


def test_examples_are_found() -> None:
    assert len(WITH_EXAMPLES) >= 20


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_every_example_gives_its_output(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed
