"""Sides of `benchmarks/serving.py` at work: our server, llama.cpp's, and transformers' generate without a server.

Each has one compute thread and one core, the clients have the other.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import psutil

from benchmarks import peer_llama_cpp
from benchmarks.peers import TRANSFORMERS
from benchmarks.serving_load import Load, Seen
from benchmarks.serving_model import PROMPT_TOKENS, write_model
from benchmarks.texts import speeches

FOLDER = Path(__file__).resolve().parent
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
START_SECONDS = 120.0
OURS = "tidemill"

Precision = Literal["bfloat16", "int8", "float32"]
GGUF: dict[Precision, peer_llama_cpp.Precision] = {"bfloat16": "BF16", "int8": "Q8_0", "float32": "F32"}


@dataclass(frozen=True)
class Files:
    """A folder with the checkpoint in every form, and prompts."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def prompts(self) -> Path:
        return self.folder / "prompts.json"

    def gguf(self, precision: Precision) -> Path:
        """The checkpoint as llama.cpp reads it."""
        return self.folder / f"{GGUF[precision]}.gguf"

    def write(self, precisions: Sequence[Precision]) -> None:
        """Make all of them."""
        write_model(self.model, list(speeches()))
        for precision in precisions:
            peer_llama_cpp.write_gguf(self.model, self.gguf(precision), GGUF[precision])


@dataclass(frozen=True)
class Work:
    """What one measurement asks for."""

    clients: int
    new_tokens: int
    first_prompt: int
    seconds: float
    requests: int


class Side(Protocol):
    """A side that is ready to be measured."""

    title: str

    def measure(self, work: Work) -> Seen:
        """Do the work once."""


class Worker:
    """A side that is a process of its own on one core; it is ended when its context is left."""

    def __init__(self, title: str, command: Sequence[object], **pipes: Any) -> None:
        self.title = title
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log.txt"
        with open(self._log, "wb") as log:
            self._process = _pinned(command, SERVER_CORE, stderr=log, **pipes)

    def __enter__(self) -> Self:
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _wait_until_ready(self) -> None:
        raise NotImplementedError

    def _cpu_seconds(self) -> float:
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def _failed(self, how: str) -> RuntimeError:
        words = self._log.read_text(encoding="utf-8", errors="replace")
        return RuntimeError(f"{self.title} {how}: {words[-2000:]}")


class Server(Worker):
    """A model server."""

    def __init__(
        self, title: str, api: Literal["openai", "llama.cpp"], files: Files, command: Sequence[object]
    ) -> None:
        self._api, self._files = api, files
        self.port = _free_port()
        super().__init__(title, [*command, "--port", str(self.port)])

    def measure(self, work: Work) -> Seen:
        load = Load(port=self.port, api=self._api, prompts=str(self._files.prompts), **asdict(work))
        place = Path(self._folder.name) / "load.json"
        place.write_text(json.dumps(asdict(load)), encoding="utf-8")
        command = [sys.executable, "-P", FOLDER / "serving_load.py", place]
        began = self._cpu_seconds()
        clients = _pinned(command, CLIENT_CORE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        said, errors = clients.communicate()
        if clients.returncode:
            raise self._failed(f"was not measured ({errors.decode()[-2000:]})")
        return replace(Seen(**json.loads(said)), cpu_seconds=self._cpu_seconds() - began)

    def _wait_until_ready(self) -> None:
        path = "/ready" if self._api == "openai" else "/health"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise self._failed("did not start")


class Generate(Worker):
    """transformers' generate: batches of as many prompts as there are clients, one after the other."""

    def __init__(self, files: Files, precision: Precision) -> None:
        command = [TRANSFORMERS.python(), "-P", FOLDER / "peer_generate.py", files.model, files.prompts, precision]
        pipe = subprocess.PIPE
        super().__init__(f"{TRANSFORMERS.title} generate", command, stdin=pipe, stdout=pipe)

    def measure(self, work: Work) -> Seen:
        assert self._process.stdin is not None
        began = self._cpu_seconds()
        self._process.stdin.write(json.dumps(asdict(work)).encode() + b"\n")
        self._process.stdin.flush()
        times = json.loads(self._next_line())
        tokens = work.clients * work.new_tokens * len(times)
        return Seen(
            tokens=tokens,
            seconds=sum(whole for _, whole in times),
            all_tokens=tokens,
            first_seconds=[first for first, _ in times],
            request_seconds=[whole for _, whole in times],
            num_prompts=work.clients * len(times),
            cpu_seconds=self._cpu_seconds() - began,
        )

    def _wait_until_ready(self) -> None:
        self._next_line()

    def _next_line(self) -> bytes:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise self._failed("ended")


def own_server(files: Files, precision: Precision) -> Server:
    """Ours, as it is shipped."""
    command = [sys.executable, "-m", "flows.cli", "serve", "--model", files.model, "--precision", precision]
    return Server(OURS, "openai", files, [*command, "--threads", "1"])


def llama_cpp_server(files: Files, precision: Precision, clients: int, context: int, *more: str) -> Server:
    """llama.cpp's, with what is fastest on this machine: flash attention would cost it a sixth to a third."""
    slots = ["-np", str(clients), "-c", str(clients * context), "-fa", "off", *more]
    plain = ["-t", "1", "-tb", "1", "--cache-ram", "0", "--cont-batching", "--log-verbosity", "1"]
    command = [peer_llama_cpp.program("llama-server"), "-m", files.gguf(precision)]
    return Server(peer_llama_cpp.TITLE, "llama.cpp", files, [*command, *slots, *plain])


def check_answers(files: Files, num_prompts: int = 4, new_tokens: int = 64) -> float:
    """The share of llama.cpp's tokens in float32 that are ours too, up to where an answer parts from ours.

    Raises AssertionError for less than most of them: it would not be the same model. A single near tie, rounded
    differently, parts an answer for the rest of its length.
    """
    from llm_core.generate import generate
    from llm_core.models import load_pretrained

    network = load_pretrained(files.model)
    prompts = json.loads(files.prompts.read_text(encoding="utf-8"))[:num_prompts]
    equal = 0
    with llama_cpp_server(files, "float32", 1, PROMPT_TOKENS + new_tokens, "-ctk", "f32", "-ctv", "f32") as server:
        for ids in prompts:
            theirs = _tokens(server.port, ids, new_tokens)
            ours = generate(network, ids, max_tokens=new_tokens, temperature=0.0)
            equal += sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(theirs, ours, strict=True)))
    share = equal / (num_prompts * new_tokens)
    assert share > 0.7, f"llama.cpp writes {share:.0%} of our tokens, so its file is not our model"
    return share


def _tokens(port: int, ids: list[int], new_tokens: int) -> list[int]:
    body = {"prompt": ids, "n_predict": new_tokens, "temperature": 0, "ignore_eos": True, "return_tokens": True}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        tokens: list[int] = json.load(response)["tokens"]
    return tokens


def _pinned(command: Sequence[object], core: int, **pipes: Any) -> subprocess.Popen[bytes]:
    """A process that stays on one core, with the shipped packages at hand."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=FOLDER.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **pipes},
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
