"""Tests of the lock files: what pyproject.toml asks for is pinned, and every pin has its hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LAYERS = {
    "run": PROJECT["dependencies"],
    "build": PYPROJECT["build-system"]["requires"],
    **PROJECT["optional-dependencies"],
}
# Files whose commands install the project.
INSTALLERS = ["Makefile", "docs/guide.md", "docs/cluster.md", "deploy/cluster.yaml"]


def pins(layer: str) -> dict[str, str]:
    """Return the entry of each package in a lock file, by its canonical name."""
    entries = re.split(r"\n(?=[^\s#])", (ROOT / "requirements" / f"{layer}.txt").read_text())[1:]
    return {canonicalize_name(entry.split("==")[0]): entry for entry in entries}


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_asked_for_is_pinned_to_a_version_that_is_allowed(layer: str) -> None:
    pinned = {**pins("run"), **pins(layer)}
    asked = [Requirement(line) for line in LAYERS[layer]]
    versions = {r.name: re.split(r"[ ;\\]", pinned[canonicalize_name(r.name)])[0] for r in asked if r.name != "torch"}
    not_allowed = {r.name: versions[r.name] for r in asked if r.name != "torch"
                   and not r.specifier.contains(versions[r.name].split("==")[1])}  # fmt: skip
    assert versions
    assert not_allowed == {}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_pin_has_a_hash(layer: str) -> None:
    assert pins(layer)
    assert [name for name, entry in pins(layer).items() if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("layer", LAYERS)
def test_torch_and_its_libraries_are_left_to_the_machine(layer: str) -> None:
    assert [name for name in pins(layer) if name.startswith(("torch", "triton", "nvidia-", "cuda-"))] == []


@pytest.mark.parametrize("file", INSTALLERS)
def test_an_installation_fetches_no_build_backend_that_is_not_pinned(file: str) -> None:
    text = (ROOT / file).read_text()
    installing = [line for line in text.splitlines() if re.search(r"(pip|INSTALL\)|PROJECT :=).* -e\b", line)]
    assert installing
    assert [line for line in installing if "--no-build-isolation" not in line] == []
    assert "-r requirements/build.txt" in text
