"""`mlflow models serve` answers with what the package says in Python, and what our own code generates."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from llm_core.config import Model
from llm_core.generate import generate
from llm_core.models import build, load_pretrained, save_pretrained
from llm_core.tokenizer import Tokenizer
from tasks.tracking import MlflowClient, mlflow
from tests.flows.small_project import free_port

PROMPTS = ["The state of our union", "Fellow citizens"]
PARAMS = {"max_tokens": 8, "temperature": 0.9, "top_p": 0.95, "seed": 11}

pytestmark = pytest.mark.e2e


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "train"
    place.mkdir()
    tokenizer = Tokenizer.train([*PROMPTS, "is strong, and they know it."] * 8, vocab_size=320)
    tokenizer.save(place)
    shape = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=1, mlp_width=48, context=96)
    save_pretrained(build(shape, tokenizer.vocab_size, tokenizer.end_id, seed=1), place)
    return place


@contextmanager
def served(model: str, store: str, folder: Path) -> Iterator[str]:
    """The address of a scoring server, once it answers; its processes end with the test."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", model]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it starts uvicorn by name
    left = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**left, "PATH": tools, "MLFLOW_TRACKING_URI": store, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with open(folder / "serve.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/ping", process, folder / "serve.log")
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=20)


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def generated(folder: Path) -> list[str]:
    """What `llm_core.generate` writes, a prompt after the other."""
    model, tokenizer = load_pretrained(folder), Tokenizer.load(folder)
    options: dict[str, Any] = {key: PARAMS[key] for key in ("max_tokens", "temperature", "top_p")}
    return [
        tokenizer.decode(
            list(
                generate(
                    model,
                    [tokenizer.end_id, *tokenizer.encode(prompt)],
                    seed=int(PARAMS["seed"]) + number,
                    stop_ids=(tokenizer.end_id,),
                    **options,
                )
            )
        )
        for number, prompt in enumerate(PROMPTS)
    ]


def test_the_scoring_server_gives_what_the_package_and_our_code_give(folder: Path, tmp_path: Path) -> None:
    from tasks.logged_model import log_model

    store = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(store)
    client = MlflowClient(store)
    experiment = client.create_experiment("models", (tmp_path / "kept").as_uri())
    model = f"models:/{log_model(client.create_run(experiment).info.run_id, folder, 'model')}"
    with served(model, store, tmp_path) as url:
        body = {"dataframe_split": {"columns": ["prompt"], "data": [[prompt] for prompt in PROMPTS]}}
        answer = httpx.post(url, json={**body, "params": PARAMS}, timeout=30)
        refused = httpx.post(url, json={"dataframe_split": {"columns": ["text"], "data": [["x"]]}}, timeout=30)
        empty = httpx.post(url, json={"dataframe_split": {"columns": ["prompt"], "data": [[" "]]}}, timeout=30)
        wrong = httpx.post(url, json={**body, "params": {"max_tokens": "many"}}, timeout=30)
    assert answer.status_code == 200, answer.text
    table = pd.DataFrame({"prompt": PROMPTS})
    assert answer.json()["predictions"] == generated(folder)
    assert answer.json()["predictions"] == mlflow.pyfunc.load_model(model).predict(table, params=PARAMS)
    assert refused.status_code == 400 and "missing inputs ['prompt']" in refused.text
    assert empty.status_code == 400 and "row 0: prompt is empty" in empty.text
    assert wrong.status_code == 400 and "max_tokens" in wrong.text
