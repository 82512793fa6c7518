from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from flows import supervisor
from tasks.workspace import Workspace
from tests.flows.small_project import free_port, make_project


@pytest.fixture(scope="session")
def _served_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, supervisor.Settings]]:
    ws = make_project(tmp_path_factory.mktemp("served") / "project")
    ports = [free_port() for _ in range(3)]
    try:
        yield ws, supervisor.Settings(*ports, cron="0 2 * * *", timezone="Europe/Berlin")
    finally:
        supervisor.down(ws.home)


@pytest.fixture
def served(
    _served_project: tuple[Workspace, supervisor.Settings], monkeypatch: pytest.MonkeyPatch
) -> tuple[Workspace, supervisor.Settings]:
    """A project whose services are up; a test may stop or kill them."""
    ws, settings = _served_project
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    supervisor.up(ws, settings)
    return ws, settings
