"""Hostile programs are stopped, leave nothing behind and are judged as failed; harmless ones pass."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from llm_core.evals import sandbox
from llm_core.evals.sandbox import Limits, SandboxError, Verdict, can_isolate, run_program

QUICK = Limits(seconds=1.0)
FAILED, TIMED_OUT = Verdict(False, "failed"), Verdict(False, "timed out")
pytestmark = pytest.mark.skipif(not can_isolate(), reason="this machine has no user namespaces")


def _inside() -> set[int]:
    """Processes that run programs of the sandbox."""
    listed = psutil.process_iter(["pid", "cmdline"])
    return {process.pid for process in listed if "exec(compile(source" in " ".join(process.info["cmdline"] or ())}


def _judged(source: str, limits: Limits = QUICK) -> Verdict:
    """The verdict; it came in time, and no process is left."""
    before, start = _inside(), time.monotonic()
    verdict = run_program(source, limits)
    assert time.monotonic() - start < limits.seconds + sandbox.START_SECONDS
    deadline = time.monotonic() + 5
    while _inside() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _inside() - before == set()
    return verdict


@pytest.mark.parametrize(
    "source",
    [
        "import math, json, re\nassert math.gcd(4, 6) == 2",
        "open('own', 'w').write('x')\nassert open('own').read() == 'x'",
        "import threading\nthreading.Thread(target=lambda: None).start()",
        "print('x' * 10_000_000)",
        "assert len('ü—') == 2",
    ],
)
def test_a_harmless_program_passes(source: str) -> None:
    assert _judged(source) == Verdict(True, "passed")


@pytest.mark.parametrize("source", ["assert False", "1 / 0", "def f(:", "raise KeyboardInterrupt", "\x00", "while"])
def test_a_wrong_program_fails(source: str) -> None:
    assert _judged(source) == FAILED


def test_a_fork_bomb_is_stopped_with_all_its_processes() -> None:
    assert not _judged("import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass").passed


@pytest.mark.parametrize(
    "source",
    [
        "import os, time\nos.setsid()\ntime.sleep(60)",
        "import os, time\nif os.fork():\n    time.sleep(60)\nos.setsid()\nif os.fork() == 0:\n    time.sleep(60)",
    ],
)
def test_a_process_that_leaves_its_session_is_stopped_too(source: str) -> None:
    assert _judged(source) == TIMED_OUT


@pytest.mark.parametrize("source", ["import time\ntime.sleep(60)", "while True: pass"])
def test_a_program_without_end_is_timed_out(source: str) -> None:
    assert _judged(source) == TIMED_OUT


@pytest.mark.parametrize("number", [1, 2, 3])
def test_endless_output_is_stopped(number: int) -> None:
    assert not _judged(f"import os\nwhile True: os.write({number}, b'x' * 65536)").passed


def test_a_signal_cannot_be_ignored_away() -> None:
    source = "import signal, time\nfor s in (1, 2, 14, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)"
    assert _judged(source) == TIMED_OUT


def test_a_program_reaches_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        assert _judged(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)") == FAILED
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"])
def test_no_kind_of_socket_opens(family: str) -> None:
    source = (
        f"import socket\ntry:\n    socket.socket(socket.{family})\nexcept PermissionError:\n    pass\nelse:\n    1/0"
    )
    assert _judged(source).passed


def test_a_socket_in_the_file_system_is_not_reached(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        source = f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})"
        assert _judged(source) == FAILED


@pytest.mark.parametrize(
    "deed", ["open({!r}, 'w').write('x')", "import os; os.remove({!r})", "import os; os.chmod({!r}, 0)"]
)
def test_files_outside_stay_as_they_are(deed: str, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    mode = target.stat().st_mode
    assert _judged(deed.format(str(target))) == FAILED
    assert (target.read_text(), target.stat().st_mode) == ("mine", mode)


def test_a_new_file_outside_is_not_made(tmp_path: Path) -> None:
    assert _judged(f"open({str(tmp_path / 'new')!r}, 'w')") == FAILED
    assert list(tmp_path.iterdir()) == []


def test_the_read_only_view_cannot_be_undone(tmp_path: Path) -> None:
    call = "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.{} == 0"
    assert _judged(call.format("mount(None, b'/', None, 32 | 4096, None)")) == FAILED
    assert _judged(call.format("umount2(b'/proc', 2)")) == FAILED
    assert _judged(call.format("unshare(0x10000000)")) == FAILED


@pytest.mark.parametrize(
    "trick",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL); 1/0",
        "import os; os.execv('/bin/true', ['true'])",
        "import atexit, os; atexit.register(os._exit, 0); 1/0",
        "import sys; sys.excepthook = lambda *e: None; 1/0",
        "import os; [os.write(n, b'passed') for n in (1, 3)]; os._exit(0)",
    ],
)
def test_leaving_before_the_end_is_no_pass(trick: str) -> None:
    assert _judged(trick) == FAILED


def test_the_environment_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_SECRET", "hush")
    assert _judged("import os\nos.environ['TIDEMILL_SECRET']") == FAILED
    assert _judged(f"open('/proc/{os.getpid()}/environ').read()") == FAILED
    assert _judged("import os\nassert set(os.environ) <= {'LC_CTYPE'}").passed


def test_no_open_file_and_no_other_process_is_seen(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        assert _judged(f"import os\nif {file.fileno()} > 3: os.write({file.fileno()}, b'x')") == FAILED
    assert _judged(f"import os\nos.kill({os.getpid()}, 0)") == FAILED


def test_memory_files_and_their_number_are_limited() -> None:
    assert _judged("x = bytearray(2**30)") == FAILED
    assert _judged("open('big', 'wb').write(bytes(2**25))", Limits(file_bytes=2**20)) == FAILED
    assert _judged("for i in range(100): open(f'{i}', 'wb').write(bytes(2**20))") == FAILED
    assert _judged("x = [open('own', 'w') for _ in range(100)]") == FAILED


def test_without_isolation_running_is_refused_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "can_isolate", lambda: False)
    with pytest.raises(SandboxError, match="pass isolated=False if you trust"):
        run_program("pass")
    assert run_program("import sys\nassert sys.flags.isolated", isolated=False).passed
    assert run_program("import time\ntime.sleep(60)", QUICK, isolated=False) == TIMED_OUT
    assert sys.flags.isolated == 0
