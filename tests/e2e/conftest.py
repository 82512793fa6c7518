from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tasks.workspace import Workspace
from tests.e2e.runs import make_stores, project_with_server


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Databases to copy, made once for all processes of this session."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = folder / "stores"
    with FileLock(folder / "stores.lock"):
        if not made.exists():
            make_stores(draft := folder / "stores.draft")
            draft.rename(made)
    return made


@pytest.fixture
def fresh(tmp_path: Path, stores: Path) -> Iterator[Workspace]:
    """A project in which nothing was run yet."""
    yield from project_with_server(tmp_path / "project", stores)
