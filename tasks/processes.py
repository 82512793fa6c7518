"""Servers as processes: started, found again by any process, stopped with everything below them.

A server's state is one file, ``HOME/servers/NAME.json``. A process is known by its id and its creation time, never by
its id alone: ids are reused. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil
from filelock import FileLock

from tasks.workspace import HOME_VARIABLE

HOST = "127.0.0.1"
SERVICE_VARIABLE = "TIDEMILL_SERVICE"
"""Set in every server and inherited by all it starts: the mark by which `stop_strays` knows what is ours."""
SAME_PROCESS_SECONDS = 2.0
"""Two readings of a process's creation time differ by less: it is derived from a clock that gets adjusted."""
# Shells give background jobs an ignored SIGINT, which children inherit: the Prefect worker turns SIGTERM into SIGINT
# and could not be stopped. An exec of the real command after resetting it is safe where a preexec_fn is not (threads).
LAUNCH = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Servers that this process started, kept so that they are reaped when they end."""


class ServiceError(ValueError):
    """A server that cannot be started, or does not get ready; the message names port, log and what to do."""


@dataclass(frozen=True)
class Service:
    """How to start one server and how to tell that it is ready."""

    name: str
    home: Path
    command: tuple[str, ...]
    """Program and arguments; the program is an absolute path."""
    folder: Path
    """Working folder of the process."""
    ready: Callable[[], bool]
    """Whether it does its work now; asked several times a second, answers within a second or two."""
    port: int | None = None
    url: str | None = None
    option: str = ""
    """The command line option that changes the port, for the message when it is taken."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set beside those of the starting process."""
    ready_seconds: float = 180.0
    grace_seconds: float = 15.0
    """Time to end by itself after SIGTERM, before it is killed."""
    children_first: bool = False
    """Whether its children get SIGTERM, and the same time, before it does."""


@dataclass(frozen=True)
class Running:
    """A started server, as its state file describes it."""

    name: str
    pid: int
    created: float
    """Creation time of the process, seconds since the epoch."""
    port: int | None
    url: str | None
    log: str
    grace_seconds: float
    children_first: bool
    owner: int | None = None
    """Process for whose run alone a temporary server was started."""

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs (not a zombie, not a stranger with its id)."""
        return _process(self) is not None

    def memory_bytes(self, with_children: bool = True) -> int:
        """Resident memory of the process, and of everything below it."""
        total = 0
        for process in _tree(self)[: None if with_children else 1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


def find(home: Path, name: str) -> Running | None:
    """The server `name` of `home` if it runs now."""
    try:
        state = Running(**json.loads(_state_path(home, name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError) as problem:
        raise ServiceError(f"{_state_path(home, name)}: not a server's state ({problem}); remove the file") from None
    return state if state.alive else None


def start(service: Service) -> Running:
    """Start a server and wait until it is ready; one that already runs is returned as it is.

    Raises ServiceError when its port is taken (naming who holds it) or when it does not get ready in time (with the end
    of its log); nothing is left running then.
    """
    folder = service.home / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{service.name}.lock"):
        running = find(service.home, service.name)
        if running is not None:
            return running
        require_free(service)
        running = _launch(service, folder / f"{service.name}.log")
        try:
            _await_ready(service, running)
        except BaseException:
            stop(service.home, running)
            raise
        return running


def stop(home: Path, running: Running, end_seconds: float = 10.0) -> None:
    """End a server and every process it started: SIGTERM, SIGKILL after its grace; what is left gets `end_seconds`."""
    main = _process(running)
    if main is not None:
        if running.children_first:
            with contextlib.suppress(psutil.NoSuchProcess):
                _end(main.children(), running.grace_seconds)
        tree = _tree(running)
        _end([main], running.grace_seconds)
        _end([process for process in tree if _runs(process)], end_seconds)
    child = _children.pop(running.pid, None)
    if child is not None:
        child.wait()
    _state_path(home, running.name).unlink(missing_ok=True)


def marked(home: Path) -> Iterator[tuple[psutil.Process, Mapping[str, str]]]:
    """Servers of `home` and everything they started, whoever is the parent now, with their environments."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            variables = process.environ()
            if SERVICE_VARIABLE in variables and variables.get(HOME_VARIABLE) == str(home):
                yield process, variables


def stop_strays(home: Path) -> list[int]:
    """End what killed servers left behind; returns the process ids."""
    ended = []
    # Again until none is left: a supervisor without its state file may have been starting one meanwhile.
    while strays := [process for process, _ in marked(home) if process.pid != os.getpid() and _runs(process)]:
        _end(strays)
        ended += [process.pid for process in strays]
    return ended


@contextlib.contextmanager
def temporary(service: Service) -> Iterator[Running]:
    """A server while the block runs: one that is up is used and left alone, else one is started and stopped.

    One that a killed run left behind is taken over, and stopped too.
    """
    running = find(service.home, service.name)
    ours = running is None or (running.owner is not None and not psutil.pid_exists(running.owner))
    running = running or start(service)
    if ours:
        running = replace(running, owner=os.getpid())
        _write_state(service.home, running)
    try:
        yield running
    finally:
        if ours:
            stop(service.home, running)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(service: Service) -> None:
    """Raise ServiceError if something listens on the service's port, naming it where the system shows it."""
    if service.port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((HOST, service.port))
        except OSError as problem:
            raise ServiceError(
                f"port {service.port} ({service.name}): cannot be used ({problem.strerror}), {_holder(service.port)}; "
                f"stop that or choose another with {service.option}"
            ) from None


def log_tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log file, empty if there is none."""
    return _last_lines(path.read_text(encoding="utf-8", errors="replace"), lines) if path.is_file() else ""


def _launch(service: Service, log: Path) -> Running:
    variables = {
        **os.environ,
        **service.environment,
        HOME_VARIABLE: str(service.home),
        SERVICE_VARIABLE: service.name,
    }
    with open(log, "ab") as sink:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCH, *service.command],
            cwd=service.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )
    _children[child.pid] = child
    created = psutil.Process(child.pid).create_time()
    running = Running(
        name=service.name,
        pid=child.pid,
        created=created,
        port=service.port,
        url=service.url,
        log=str(log),
        grace_seconds=service.grace_seconds,
        children_first=service.children_first,
    )
    _write_state(service.home, running)
    return running


def _await_ready(service: Service, running: Running) -> None:
    deadline = time.monotonic() + service.ready_seconds
    while not service.ready():
        if not running.alive:
            fact = "ended while it started"
        elif time.monotonic() > deadline:
            fact = f"was not ready within {service.ready_seconds:.0f} s"
        else:
            time.sleep(0.1)
            continue
        raise ServiceError(f"{service.name}: {fact}; the end of {running.log}:\n{log_tail(Path(running.log))}")


def _process(running: Running) -> psutil.Process | None:
    """The process behind a state, or None if it ended."""
    child = _children.get(running.pid)
    if child is not None and child.poll() is not None:
        return None
    try:
        process = psutil.Process(running.pid)
        same = abs(process.create_time() - running.created) < SAME_PROCESS_SECONDS
        return process if same and _runs(process) else None
    except psutil.NoSuchProcess:
        return None


def _tree(running: Running) -> list[psutil.Process]:
    """The process and everything below it."""
    process = _process(running)
    if process is None:
        return []
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(processes: list[psutil.Process], grace_seconds: float = 10.0) -> None:
    """SIGTERM, and SIGKILL for those that run on after the grace."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in _wait(processes, grace_seconds):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(processes, grace_seconds)


def _wait(waited: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait for processes to end; returns those that still run."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in waited if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def _runs(process: psutil.Process) -> bool:
    """Whether a process still runs; one that ended and waits for its parent to notice (a zombie) does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _holder(port: int) -> str:
    """Which program listens on `port`, as far as the system lets this user see."""
    try:
        sockets = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        sockets = []
    pids = {s.pid for s in sockets if s.status == psutil.CONN_LISTEN and s.laddr and s.laddr.port == port and s.pid}
    for pid in sorted(pids):
        with contextlib.suppress(psutil.Error):
            return f"held by process {pid} ({' '.join(psutil.Process(pid).cmdline())[:120]})"
    return "held by a program that this user cannot see"


def _write_state(home: Path, running: Running) -> None:
    path = _state_path(home, running.name)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(running), indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)


def _state_path(home: Path, name: str) -> Path:
    return home / "servers" / f"{name}.json"


def _last_lines(text: str, lines: int = 20) -> str:
    return "\n".join(text.splitlines()[-lines:])
