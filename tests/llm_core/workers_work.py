"""Work for a worker process, importable by it."""

from __future__ import annotations

import os


def pid(_: object) -> int:
    """The worker's process id."""
    return os.getpid()
