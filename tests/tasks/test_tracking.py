from __future__ import annotations

from pathlib import Path

import pytest

from tasks.processes import ServiceError
from tasks.tracking import traces_endpoint


def test_a_database_without_a_server_takes_no_traces(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="tidemill up starts one"):
        traces_endpoint(tmp_path)
