"""An engine's program as a process of ours: started, watched, started again when it dies, and never left behind."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any

import httpx

from llm_core.serving.backends.program import BackendError, Program

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
"""Before a program is started again; twice as long each time that it did not last for the longest pause."""
HEALTH_SECONDS, HEALTH_PATIENCE_SECONDS, MAX_MISSES = 5.0, 10.0, 6
"""How often a program is asked whether it is well, how long it may take to say so, and how many times in a row it may
not, before it is replaced."""
SILENT_SECONDS = 300.0
"""Longest time without a byte in an answer: a long prompt on a slow machine is read silently."""
GRACE_SECONDS = 10.0
AGAIN = "; it is being started again"
TAIL_BYTES = 2000
# The program ends when the thread that started it does, however this process ends; SIGINT may have been ignored.
LAUNCH = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the server is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Supervisor:
    """Keeps one program running, in a thread with an asyncio loop, until it is stopped."""

    def __init__(self, program: Program, start_seconds: float) -> None:
        self.trouble: str | None = None
        """Why the program answers nothing now."""
        self._last_trouble = ""
        self._program, self._start_seconds = program, start_seconds
        self._client: httpx.AsyncClient | None = None
        self._tail = b""
        self._loop = asyncio.new_event_loop()
        self._is_stopping = asyncio.Event()
        self._is_down = asyncio.Event()
        self._first: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"supervisor of {program.name}", daemon=True)
        _supervisors.add(self)

    def start(self) -> None:
        """Start the program and wait until it is well; raises BackendError, with its last words, where it is not."""
        self._thread.start()
        self._first.result()

    def submit(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Run `work` in the loop; cancelling what comes back cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @property
    def client(self) -> httpx.AsyncClient:
        """What the program is asked through; raises BackendError while it is down."""
        if self._client is None:
            raise BackendError(self.trouble or "it is not running")
        return self._client

    async def reason(self, problem: Exception, client: httpx.AsyncClient) -> str:
        """Why asking through `client` failed: mostly the program's death, which shows a moment later, or long ago."""
        if client is self._client:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_down.wait(), 1.0)
        return self._last_trouble if client is not self._client else f"{type(problem).__name__}: {problem}"

    def stop(self) -> None:
        """Begin to end the program and the thread; safe to call from any thread, and again."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(self._is_stopping.set)

    def join(self, seconds: float = GRACE_SECONDS + 5) -> None:
        """Wait for the end that `stop` began."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._supervise())

    async def _supervise(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._is_stopping.is_set():
            began = time.monotonic()
            try:
                async with self._running() as process:
                    self._up(time.monotonic() - began)
                    reason = await self._watch(process)
                    self._fell(reason)  # noted at once: its end may take a while
            except Exception as problem:  # whoever waits for the start must be told, whatever it is
                reason = str(problem)
            if not self._goes_on(reason):
                return
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - began > MAX_PAUSE_SECONDS else pause
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    def _up(self, seconds: float) -> None:
        logger.info("%s is well (after %.1f s)", self._program.name, seconds)
        self._is_down.clear()
        self.trouble = None
        if not self._first.done():
            self._first.set_result(None)

    def _goes_on(self, reason: str) -> bool:
        """Note why it is down; False where it will not be started again."""
        if not self._first.done():
            self.trouble = reason
            self._first.set_exception(BackendError(f"{reason}{self._last_words()}"))
            return False
        if self._is_stopping.is_set():
            self.trouble = "it was stopped"
            return False
        self._fell(reason)
        self._is_down.set()
        logger.error("%s%s", self.trouble, self._last_words())
        return True

    def _fell(self, reason: str) -> None:
        # Told to clients, whom its last words do not concern.
        self.trouble = self._last_trouble = f"{reason}{AGAIN}"

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """The program, well; ended with all it started when this is left."""
        self._program.verify()
        port, key = _free_port(), secrets.token_urlsafe(32)
        process = await self._launch(port, key)
        reading = asyncio.ensure_future(self._read(process))
        headers, timeout = {"authorization": f"Bearer {key}"}, httpx.Timeout(10, read=SILENT_SECONDS, pool=None)
        # A new connection for each answer: one that is kept may be closed by the program just as it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=timeout, limits=limits, trust_env=False
            ) as client:
                await self._await_health(process, client)
                self._client = client
                yield process
        finally:
            self._client = None
            await _end(process)
            with contextlib.suppress(TimeoutError):  # what it started may hold its output open
                await asyncio.wait_for(reading, 1.0)

    async def _launch(self, port: int, key: str) -> asyncio.subprocess.Process:
        # Keys keep others on this machine, and pages in its browsers, from asking the program past the gateway.
        keys = {"VLLM_API_KEY": key, "LLAMA_API_KEY": key}
        self._tail = b""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid())),
            *self._program.command(port),
            env={**os.environ, **self._program.environment, **keys},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to answer; and its children are its group
        )

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Keep the end of what the program says."""
        assert process.stdout is not None
        while chunk := await process.stdout.read(1 << 16):
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]
            logger.debug("%s: %s", self._program.name, chunk.decode(errors="replace").rstrip())

    async def _await_health(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient) -> None:
        until = time.monotonic() + self._start_seconds
        while not await _is_well(client):
            if process.returncode is not None:
                raise BackendError(self._ended(process, "while it started"))
            if self._is_stopping.is_set():
                raise BackendError("it was stopped")
            if time.monotonic() > until:
                raise BackendError(f"{self._program.name} was not well within {self._start_seconds:g} s")
            await asyncio.sleep(0.05)

    async def _watch(self, process: asyncio.subprocess.Process) -> str:
        """Wait until the program has ended, hangs, or is to stop; says which."""
        waits = [asyncio.ensure_future(wait) for wait in (process.wait(), self._hang(), self._is_stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._is_stopping.is_set():
            return "it was stopped"
        if process.returncode is None:
            return f"{self._program.name} hangs: it did not say that it is well {MAX_MISSES} times"
        return self._ended(process, "")

    async def _hang(self) -> None:
        misses = 0
        while misses < MAX_MISSES:
            await asyncio.sleep(HEALTH_SECONDS)
            misses = 0 if self._client and await _is_well(self._client) else misses + 1

    def _ended(self, process: asyncio.subprocess.Process, when: str) -> str:
        code = process.returncode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"{self._program.name} ended {how} {when}".rstrip()

    def _last_words(self) -> str:
        last = self._tail.decode(errors="replace").strip()
        return f"; its last words:\n{last}" if last else ""


async def _is_well(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health", timeout=HEALTH_PATIENCE_SECONDS)).status_code == HTTPStatus.OK
    except httpx.HTTPError:
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL for what runs on of it and of all that it started."""
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its session is its own, so its group has its id
    await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_supervisors: weakref.WeakSet[Supervisor] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    running = list(_supervisors)
    for supervisor in running:
        supervisor.stop()
    for supervisor in running:
        supervisor.join()
