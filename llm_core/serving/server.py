"""The server process: a socket, the engine, the registry's follower and an end without lost answers."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import uvicorn

from llm_core.serving import backends, request_log
from llm_core.serving.access import Gate
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import MAX_OPEN, Engine
from llm_core.serving.follower import POLL_SECONDS, AdmitChallenger, Follower, admit_no_challenger
from llm_core.serving.hosting import Host
from llm_core.serving.keys import Keys, read_keys
from llm_core.serving.limits import Limiter
from llm_core.serving.middleware import MAX_BODY_BYTES
from llm_core.serving.registry import RegisteredVersion, Registry
from llm_core.serving.samples import Samples
from llm_core.serving.settings import DEFAULT_SETTINGS, RunnerSettings
from llm_core.serving.traces import Traces
from llm_core.serving.usage import Usage

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
FLUSH_SECONDS = 5
"""How long complete answers may take to reach their clients at the end."""
HTTP: Mapping[str, Any] = {
    "access_log": False,  # request_log.py's lines instead
    "lifespan": "off",
    "proxy_headers": False,  # nothing here goes by what a client says of itself
    "server_header": False,
    "timeout_graceful_shutdown": FLUSH_SECONDS,
    "ws": "none",
}
"""How uvicorn speaks HTTP here."""
LINE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class OpenToOthers(ValueError):
    """A server that others would reach without a key; the message names the address and what to do."""


class PortTaken(ValueError):
    """A port that the server cannot have; the message names it and the option that changes it."""


def serve(
    lines: Host,
    registry: Registry,
    admit: Callable[[RegisteredVersion], None],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    poll_seconds: float = POLL_SECONDS,
    drain_seconds: float = DRAIN_SECONDS,
    settings: RunnerSettings = DEFAULT_SETTINGS,
    max_open: int = MAX_OPEN,
    request_seconds: float | None = None,
    keys: Path | None = None,
    without_keys: bool = False,
    samples: Samples | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    admit_challenger: AdmitChallenger = admit_no_challenger,
    traces: Traces | None = None,
    keeps_spoken: bool = False,
    indexes: Path | None = None,
) -> None:
    """Serve the champions of `lines` until SIGTERM or SIGINT, then finish what was begun and return.

    `admit` raises for a version that may not serve, `admit_challenger` for one that may not be tried. One CPU thread is
    the default: on small models more of them gain little, and beside a training that holds the cores they wait for each
    other (130 tokens/s fell to 10 for 4M parameters on two cores). Raises NotInstalled, OpenToOthers,
    KeyFileError or PortTaken before anything is loaded.

    `keys` is the file of the API keys that are let in; usage is counted in a database beside it. Without it the server
    is open, which `without_keys` must say where not only this machine reaches it. `samples` and `traces` are closed in
    the end. With `keeps_spoken` the log and the traces say what was asked and answered.
    `indexes` is the folder of the indexes of training documents; with it /v1/explain tells passages of them.
    """
    if keys is None and not without_keys:
        require_loopback(host)
    if keys is not None:
        read_keys(keys)
    backends.require(settings)
    listener = open_listener(host, port)
    torch.set_num_threads(settings.threads)
    with ExitStack() as stack:
        stack.enter_context(listener)
        service = Service(lines, stack.enter_context(Engine(max_open)), request_seconds, indexes)
        for line in lines.lines.values():
            stack.enter_context(Follower(line, registry, admit, settings, poll_seconds, admit_challenger))
        gate = stack.enter_context(_gate(keys)) if keys is not None else None
        for kept in (samples, traces):
            if kept is not None:
                stack.callback(kept.close)
        app = create_app(service, gate, samples, max_body_bytes, traces, keeps_spoken)
        config = uvicorn.Config(app, log_config=_logging(), **HTTP)
        logger.info("%s: http://%s:%d", ", ".join(lines.lines), *listener.getsockname()[:2])
        DrainingServer(config, service, drain_seconds).run(sockets=[listener])
        logger.info("%s: ended, every accepted request was answered or told", ", ".join(lines.lines))


@contextmanager
def _gate(keys: Path) -> Iterator[Gate]:
    """The gate for the keys of a file; usage is counted beside it, and written to the end."""
    usage = Usage(keys.with_suffix(".usage.db"))
    try:
        yield Gate(Keys(keys), Limiter(usage))
    finally:
        usage.close()


def require_loopback(host: str) -> None:
    """Raise OpenToOthers for an address that not only this machine reaches."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise OpenToOthers(
            f"--host {host}: others would reach this server without a key; give it --keys FILE "
            "(tidemill keys create NAME makes one), or say --no-keys"
        )


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket, so that the port is ours before models are loaded; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not held up by the last server's connections
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as problem:
        listener.close()
        taken = problem.errno == errno.EADDRINUSE
        reason = (
            "is taken by another program; stop it" if taken else f"cannot be opened ({problem.strerror}); check --host"
        )
        raise PortTaken(f"port {port} on {host} {reason} or choose another with --port") from None
    return listener


class DrainingServer(uvicorn.Server):
    """Uvicorn, except that a signal first refuses new work (503) and lets running answers finish.

    Uvicorn itself closes the socket at once and raises the signal again, so that the process would end by it. A second
    signal ends at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds
        self._drain_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._service.engine.drain()
        self._drain_until = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        if self._drain_until is not None and not self.should_exit:
            is_late = time.monotonic() >= self._drain_until
            self.should_exit = is_late or self._service.num_open == 0
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.workers.close()
        self._service.engine.close()  # what is late gets an error instead of a broken connection
        await super().shutdown(sockets)


def _logging() -> dict[str, Any]:
    """One line an event on stderr, with time and module; requests in lines of JSON, which say the time themselves."""
    handlers = {"stderr": "line", "requests": "json"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": LINE_FORMAT}, "json": {"format": "%(message)s"}},
        "handlers": {name: {"class": "logging.StreamHandler", "formatter": form} for name, form in handlers.items()},
        "loggers": {
            "llm_core": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            request_log.logger.name: {"handlers": ["requests"], "level": "INFO", "propagate": False},
        },
    }
