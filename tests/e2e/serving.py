"""A registry with versions to swap between, the shipped server on it, and clients that stream."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import psutil
import torch

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model, Register, load_recipe
from llm_core.generate import generate
from llm_core.models import build, load_pretrained, save_pretrained
from llm_core.serving.canary import Canary
from llm_core.tokenizer import Tokenizer
from tasks import challenges, champions
from tasks.ledger import Entry, Ledger
from tasks.processes import free_port
from tasks.register import TRACED, register
from tasks.tracking import Tracker
from tasks.workspace import Workspace
from tests.conftest import ROOT, project_environment

LINE = "tiny"
SHAPE = Model(num_layers=2, width=64, num_heads=4, num_kv_heads=2, mlp_width=128, context=128)
TEXTS = ["The state of our union is strong, and fellow citizens of the Senate know it.", "One, two and three."] * 8
WORDS = TEXTS[0].split()
PROMPTS = ("The", "Fellow citizens of the Senate", "One, two", "The state of our union " * 4)
ANSWER_TOKENS = 48


class Registered:
    """A line whose versions are registered and in the ledger as a run would leave them."""

    def __init__(self, root: Path, num_versions: int, steps: Mapping[int, int] = MappingProxyType({})) -> None:
        root.mkdir()
        (root / "dvc.yaml").write_text("stages: {}\n")
        self.ws = Workspace(root=root, home=root / ".tidemill")
        self.ledger, self.tracker = Ledger(self.ws.home), Tracker(self.ws)
        self._steps = steps
        """Steps for which versions are trained; the others have random weights."""
        self.tokenizer = Tokenizer.train(TEXTS, vocab_size=320)
        self.models = [self._register(seed) for seed in range(1, num_versions + 1)]
        self._texts: dict[tuple[str, str], str] = {}

    def challenge(self, number: int, canary: Canary) -> Entry:
        """Have a version tried beside the champion."""
        version = champions.registered(self.ledger, LINE, number)
        entry = challenges.begin(self.ledger, version, canary, "a test says so")
        champions.project(self.ledger, self.tracker, LINE)
        return entry

    def promote(self, number: int) -> None:
        """Make a version champion, in the ledger and the registry."""
        champions.promote(self.ledger, LINE, number, "a test says so")
        champions.project(self.ledger, self.tracker, LINE)

    def greedy(self, version: str, prompt: str) -> str:
        """What this version writes behind a prompt, by the generation core and torch."""
        if (version, prompt) not in self._texts:
            model = self.models[int(version.partition("@")[2]) - 1]
            ids = [self.tokenizer.end_id, *self.tokenizer.encode(prompt)]
            written = generate(load_pretrained(model.path), ids, max_tokens=ANSWER_TOKENS, temperature=0.0)
            self._texts[version, prompt] = self.tokenizer.decode(list(written))
        return self._texts[version, prompt]

    def _register(self, seed: int) -> Artifact:
        folder = self.ws.root / f"model-{seed}"
        with Draft(folder, kind="model", stage="train", recipe={"seed": seed}) as out:
            network = build(SHAPE, self.tokenizer.vocab_size, self.tokenizer.end_id, seed)
            fit(network, self.tokenizer, self._steps.get(seed, 0))
            save_pretrained(network, out.path)
            self.tokenizer.save(out.path)
            artifact = out.publish({"seed": seed})
        recipe = load_recipe("demo", ROOT / "configs", (f"register.line={LINE}",))
        run_id = self.tracker.open_run(recipe, f"intent-{seed}", {})
        register(
            Register(line=LINE), artifact, self.tracker, self.ledger, self.ws, run_id, dict.fromkeys(TRACED, "known")
        )
        return artifact


def fit(network: torch.nn.Module, tokenizer: Tokenizer, num_steps: int) -> None:
    """Teach a network the words of the texts, in any order."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(num_steps):
        text = " ".join(random.Random(step).choices(WORDS, k=60))
        ids = torch.tensor([[tokenizer.end_id, *tokenizer.encode(text)][: SHAPE.context]])
        loss = torch.nn.functional.cross_entropy(network(ids[:, :-1]).logits[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@dataclass
class Running:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    url: str

    def served(self) -> str | None:
        """The version that answers now."""
        try:
            return (httpx.get(f"{self.url}/ready", timeout=10).json()["model"] or {}).get("name")
        except httpx.TransportError:
            return None

    def await_version(self, name: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while self.served() != name:
            assert time.monotonic() < until and self.process.poll() is None, f"{name} does not serve"
            time.sleep(0.02)

    def number(self, name: str) -> float:
        """One of its metrics."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def memory(self) -> int:
        """Bytes that it holds alone, its chat renderers included."""
        process = psutil.Process(self.process.pid)
        return sum(each.memory_full_info().uss for each in (process, *process.children(recursive=True)))


@contextmanager
def server(ws: Workspace, *options: str, broken: str = "") -> Iterator[Running]:
    """`tidemill serve` of the line on a free port; `broken` is code that spoils it first."""
    environment = {**os.environ, **project_environment(ws), "PYTHONPATH": str(ROOT)}
    with _started(("--line", LINE, "--poll-seconds", "0.05", *options), broken, ws.root, environment) as running:
        yield running


@contextmanager
def serve_folder(model: Path, *options: str) -> Iterator[Running]:
    """`tidemill serve` of a model's folder on a free port."""
    with _started(("--model", str(model), *options), "", ROOT, dict(os.environ)) as running:
        yield running


@contextmanager
def _started(options: Sequence[str], broken: str, folder: Path, environment: dict[str, str]) -> Iterator[Running]:
    port = free_port()
    program = f"{broken}\nfrom flows.cli import main\nmain()"
    command = [sys.executable, "-c", program, "serve", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=folder, env=environment)
    try:
        yield Running(process, f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


@dataclass
class Stream:
    """What one streaming client saw."""

    prompt: str
    version: str = ""
    fingerprints: set[str] = field(default_factory=set)
    text: str = ""
    status: int = 0
    is_whole: bool = False

    def read(self, line: str) -> None:
        if line == "data: [DONE]":
            self.is_whole = True
        elif line.startswith("data: "):
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                return
            self.fingerprints.add(event["system_fingerprint"])
            self.text += "".join(choice["text"] for choice in event["choices"])


async def stream(client: httpx.AsyncClient, prompt: str) -> Stream:
    """Ask for a greedy answer and read it to its end, however it ends."""
    seen = Stream(prompt)
    body: dict[str, Any] = {"model": LINE, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0}
    body |= {"stream": True, "ignore_eos": True}
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            seen.status, seen.version = response.status_code, response.headers.get("x-tidemill-version", "")
            async for line in response.aiter_lines():
                seen.read(line)
    except httpx.HTTPError:
        pass
    return seen


class Crowd:
    """Clients that stream one answer after the other until they are told to stop."""

    def __init__(self, url: str, num_clients: int, prompts: Sequence[str] = PROMPTS) -> None:
        self.streams: list[Stream] = []
        self._url, self._num_clients, self._prompts = url, num_clients, prompts
        self._is_over = False

    async def stay(self) -> None:
        """All clients, until `leave`."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits, trust_env=False) as client:
            await asyncio.gather(*(self._ask(client, place) for place in range(self._num_clients)))

    def leave(self) -> None:
        """Finish what was begun, and end."""
        self._is_over = True

    async def _ask(self, client: httpx.AsyncClient, place: int) -> None:
        while not self._is_over:
            self.streams.append(await stream(client, self._prompts[place % len(self._prompts)]))
            if not self.streams[-1].is_whole:
                await asyncio.sleep(0.05)
