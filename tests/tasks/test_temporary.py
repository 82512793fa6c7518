from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tasks.processes import Service, find, start, stop, temporary


def sleeper(home: Path) -> Service:
    return Service("sleeper", home, (sys.executable, "-c", "import time; time.sleep(60)"), home, ready=lambda: True)


def test_a_temporary_server_ends_with_its_block(tmp_path: Path) -> None:
    with temporary(sleeper(tmp_path)) as running:
        assert running.alive
    assert not running.alive
    assert find(tmp_path, "sleeper") is None


def test_a_server_that_was_up_is_used_and_left_alone(tmp_path: Path) -> None:
    running = start(sleeper(tmp_path))
    with temporary(sleeper(tmp_path)) as used:
        assert used.pid == running.pid
    assert running.alive
    stop(tmp_path, running)


def test_a_server_that_a_killed_run_left_is_taken_over_and_ended(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tasks.processes import Service, temporary
home = Path({str(tmp_path)!r})
with temporary(Service("sleeper", home, {sleeper(tmp_path).command!r}, home, ready=lambda: True)):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code])
    assert killed.returncode == -9
    left = find(tmp_path, "sleeper")
    assert left is not None
    with temporary(replace(sleeper(tmp_path))) as used:
        assert used.pid == left.pid
    assert find(tmp_path, "sleeper") is None
    assert not left.alive
