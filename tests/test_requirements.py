"""Tests of the lock files: what pyproject.toml asks for is pinned, and every pin has its hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LAYERS = {"run": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


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
