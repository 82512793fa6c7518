from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.workspace import Workspace
from tests.e2e.runs import project_with_server


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Workspace]:
    """A project in which nothing was run yet."""
    yield from project_with_server(tmp_path / "project")
