"""Workspaces whose tables are finished, unless a module has its own."""

from collections.abc import Callable

import pytest

from tests.conftest import Workspace
from tests.support.finished_tables import finished


@pytest.fixture
def workspace(new_workspace: Callable[..., Workspace]) -> Workspace:
    """Two finished shards of a corpus and of a pool."""
    return finished(new_workspace())


@pytest.fixture(scope="module")
def unchanged(new_module_workspace: Callable[..., Workspace]) -> Workspace:
    """The same, for tests that write nothing."""
    return finished(new_module_workspace())
