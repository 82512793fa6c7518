"""The server process: a socket, the engine, the registry's follower and an end without lost answers."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from types import FrameType
from typing import Any

import torch
import uvicorn

from llm_core.serving import backends
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import MAX_OPEN, Engine
from llm_core.serving.follower import POLL_SECONDS, Follower
from llm_core.serving.hosting import Host
from llm_core.serving.registry import RegisteredVersion, Registry
from llm_core.serving.settings import DEFAULT_SETTINGS, RunnerSettings

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
FLUSH_SECONDS = 5
"""How long complete answers may take to reach their clients at the end."""
POLLED_PATHS = frozenset({"/health", "/ready", "/version"})
LINE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


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
) -> None:
    """Serve the champions of `lines` until SIGTERM or SIGINT, then finish what was begun and return.

    `admit` raises for a version that may not serve. One CPU thread is the default: on small models more of them gain
    little, and beside a training that holds the cores they wait for each other (130 tokens/s fell to 10 for 4M
    parameters on two cores). Raises NotInstalled and PortTaken before anything is loaded.
    """
    backends.require(settings)
    listener = open_listener(host, port)
    torch.set_num_threads(settings.threads)
    with ExitStack() as stack:
        stack.enter_context(listener)
        engine = stack.enter_context(Engine(max_open))
        for line in lines.lines.values():
            stack.enter_context(Follower(line, registry, admit, settings, poll_seconds))
        app = create_app(Service(lines, engine))
        config = uvicorn.Config(
            app, log_config=_logging(), timeout_graceful_shutdown=FLUSH_SECONDS, server_header=False, lifespan="off"
        )
        logger.info("%s: http://%s:%d", ", ".join(lines.lines), *listener.getsockname()[:2])
        DrainingServer(config, engine, drain_seconds).run(sockets=[listener])
        logger.info("%s: ended, every accepted request was answered or told", ", ".join(lines.lines))


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

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float) -> None:
        super().__init__(config)
        self._engine, self._drain_seconds = engine, drain_seconds
        self._drain_until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._engine.drain()
        self._drain_until = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        if self._drain_until is not None and not self.should_exit:
            is_late = time.monotonic() >= self._drain_until
            self.should_exit = is_late or self._engine.num_open == 0
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()  # what is late gets an error instead of a broken connection
        await super().shutdown(sockets)


class _WithoutPolls(logging.Filter):
    """Drops the access lines of those who only look whether the server is well; a refusal is still logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.args, tuple) or len(record.args) != 5:
            return True
        _, _, path, _, status = record.args  # uvicorn.access: client, method, path, HTTP version, status
        return path not in POLLED_PATHS or status != HTTPStatus.OK


def _logging() -> dict[str, Any]:
    """One line an event on stderr, with time and module; access lines too."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": LINE_FORMAT}},
        "filters": {"without_polls": {"()": _WithoutPolls}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["without_polls"]},
        },
        "loggers": {
            name: {"handlers": ["stderr"], "level": "INFO", "propagate": False} for name in ("llm_core", "uvicorn")
        },
    }
