from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tasks import processes
from tasks.processes import Running, Service, ServiceError
from tasks.workspace import HOME_VARIABLE

SERVE = """
import http.server, subprocess, sys
if "--child" in sys.argv:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.stop_strays(tmp_path)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def web_server(home: Path, port: int, *options: str) -> Service:
    """A real server, for as long as the test runs."""

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}", timeout=1.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    return Service(
        name="web",
        home=home,
        command=(sys.executable, "-c", SERVE, str(port), *options),
        folder=home,
        ready=ready,
        port=port,
        url=f"http://127.0.0.1:{port}",
        option="--web-port",
        grace_seconds=5.0,
    )


def program(home: Path, code: str, ready: Callable[[], bool] = lambda: True, **changes: object) -> Service:
    command = (sys.executable, "-c", code)
    return Service(name="program", home=home, command=command, folder=home, ready=ready, **changes)  # type: ignore[arg-type]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(fact: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_started_server_answers_and_is_found_by_others(home: Path, port: int) -> None:
    running = processes.start(web_server(home, port))
    assert httpx.get(str(running.url), trust_env=False).is_success
    assert processes.find(home, "web") == running
    assert running.memory_bytes() > 1_000_000
    processes.stop(home, running)
    assert is_gone(running.pid)
    assert processes.find(home, "web") is None


def test_starting_twice_gives_the_same_process(home: Path, port: int) -> None:
    first = processes.start(web_server(home, port))
    assert processes.start(web_server(home, port)) == first


def test_two_starters_at_once_start_one_server(home: Path, port: int) -> None:
    found: list[Running] = []
    threads = [threading.Thread(target=lambda: found.append(processes.start(web_server(home, port)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_taken_port_names_port_holder_and_option(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {taken} \(web\).*process {os.getpid()} .*--web-port"):
            processes.start(web_server(home, taken))
    assert processes.find(home, "web") is None


def test_stopping_takes_children_in_other_sessions_too(home: Path, port: int) -> None:
    running = processes.start(web_server(home, port, "--child"))
    (child,) = psutil.Process(running.pid).children()
    processes.stop(home, running)
    wait_for(lambda: is_gone(running.pid) and is_gone(child.pid))


def test_what_a_killed_server_left_behind_is_found_by_its_mark(home: Path, port: int) -> None:
    running = processes.start(web_server(home, port, "--child"))
    (child,) = psutil.Process(running.pid).children()
    os.kill(running.pid, signal.SIGKILL)
    wait_for(lambda: is_gone(running.pid))
    assert not is_gone(child.pid)
    assert processes.stop_strays(home) == [child.pid]
    assert is_gone(child.pid)


def test_the_strays_of_another_home_are_left_alone(home: Path, port: int) -> None:
    running = processes.start(web_server(home, port))
    assert processes.stop_strays(home / "other") == []
    assert running.alive


def test_a_stranger_with_the_same_process_id_is_never_stopped(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        try:
            state = Running("web", stranger.pid, time.time() - 3600, None, None, "", 1.0, False)
            assert not state.alive
            processes.stop(home, state)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_server_that_ends_at_once_shows_the_end_of_its_log(home: Path) -> None:
    broken = program(home, "print('first'); raise SystemExit('no such option')", ready=lambda: False)
    with pytest.raises(ServiceError, match=r"(?s)program: ended while it started.*program\.log.*no such option"):
        processes.start(broken)


def test_a_server_that_is_never_ready_is_stopped(home: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    slow = program(home, code, ready=lambda: False, ready_seconds=0.5)
    with pytest.raises(ServiceError, match=r"program: was not ready within 0 s"):
        processes.start(slow)
    assert is_gone(int((home / "servers" / "program.log").read_text()))
    assert processes.find(home, "program") is None


def test_a_server_that_ignores_the_signal_is_killed_after_its_grace(home: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    log = home / "servers" / "program.log"
    running = processes.start(program(home, code, ready=lambda: "on" in processes.log_tail(log), grace_seconds=0.2))
    started = time.monotonic()
    processes.stop(home, running, end_seconds=0.2)
    assert is_gone(running.pid)
    assert time.monotonic() - started < 5


def test_children_are_told_first_where_the_service_says_so(home: Path) -> None:
    child = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved'))); time.sleep(60)"
    )
    code = f"""
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-u", "-c", {child!r}])
def leave(*_):
    child.kill()  # as the Prefect worker does
    sys.exit()
signal.signal(signal.SIGTERM, leave)
time.sleep(0.5)
print("on", flush=True)
time.sleep(60)
"""
    log = home / "servers" / "program.log"
    service = program(home, code, ready=lambda: "on" in processes.log_tail(log), children_first=True)
    processes.stop(home, processes.start(service))
    assert "saved" in log.read_text()


def test_an_ignored_interrupt_is_not_inherited(home: Path) -> None:
    code = "import signal, time; print(signal.getsignal(signal.SIGINT), flush=True); time.sleep(60)"
    log = home / "servers" / "program.log"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        processes.start(program(home, code, ready=lambda: bool(processes.log_tail(log))))
    finally:
        signal.signal(signal.SIGINT, before)
    assert "default_int_handler" in log.read_text()


def test_a_server_knows_its_home(home: Path) -> None:
    code = f"import os, time; print(os.environ['{HOME_VARIABLE}'], flush=True); time.sleep(60)"
    log = home / "servers" / "program.log"
    processes.start(program(home, code, ready=lambda: bool(processes.log_tail(log))))
    assert log.read_text().strip() == str(home)


def test_a_temporary_server_lives_as_long_as_the_block(home: Path, port: int) -> None:
    with processes.temporary(web_server(home, port)) as running:
        assert running.alive
    assert is_gone(running.pid)


def test_a_temporary_server_is_gone_after_an_error(home: Path, port: int) -> None:
    with pytest.raises(KeyError), processes.temporary(web_server(home, port)):
        raise KeyError
    assert processes.find(home, "web") is None


def test_a_server_that_was_up_stays_up_after_the_block(home: Path, port: int) -> None:
    running = processes.start(web_server(home, port))
    with processes.temporary(web_server(home, port)) as used:
        assert used == running
    assert running.alive


def test_a_damaged_state_file_is_named(home: Path) -> None:
    path = home / "servers" / "web.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"pid": 1}))
    with pytest.raises(ServiceError, match=r"web\.json: not a server's state.*remove the file"):
        processes.find(home, "web")
