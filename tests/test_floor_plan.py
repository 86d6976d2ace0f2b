"""The floor plan: one import direction, no circle, and rooms of general use that know no method."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("el_resources", "el_assets")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
METHODS = ("el_assets.corpus", "el_assets.entropylong", "el_assets.gateau")
# Modules that lie directly in a package, at most; what Python itself asks for is not counted.
MOST_AT_THE_DOOR = 8


def imported(module: str) -> Iterator[str]:
    """Yield the modules of this project that a module imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGES):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)


GRAPH = {module: set(imported(module)) for module in MODULES}


def test_no_imports_go_in_circles() -> None:
    assert len(list(TopologicalSorter(GRAPH).static_order())) >= len(MODULES)


def test_what_computes_knows_nothing_of_what_is_made() -> None:
    found = {(module, other) for module, others in GRAPH.items() for other in others if module.startswith(PACKAGES[0])}
    assert [pair for pair in found if pair[1].startswith("el_assets")] == []


@pytest.mark.parametrize("room", ["el_assets.tables", "el_assets.operations", "el_assets.plots.shown"])
def test_rooms_of_general_use_import_no_method(room: str) -> None:
    inside = [module for module in MODULES if module == room or module.startswith(f"{room}.")]
    assert inside
    assert [(m, other) for m in inside for other in GRAPH[m] if other.startswith(METHODS)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_few_modules_lie_at_the_door(package: str) -> None:
    found = [path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")]
    assert len(found) <= MOST_AT_THE_DOOR, found
