"""Put the champion into service and prove it: the model server answers a real request with this version."""

from __future__ import annotations

import time
from typing import Any

import httpx

from llm_core.config import Deploy
from tasks.ledger import Entry, Ledger

POLL_SECONDS = 0.5


class DeployError(ValueError):
    """The champion is not served; the message says what the server said and where its log is."""


def deploy(cfg: Deploy, champion: Entry, url: str, ledger: Ledger) -> Entry:
    """The `served` entry of this champion: asked from the server at `url`, which follows the champion by itself."""
    done = ledger.find("served", champion.hash)
    if done is not None:
        return done
    name = f"{champion.line}@{champion.body['version']}"
    with httpx.Client(base_url=url, timeout=cfg.timeout_seconds, trust_env=False) as client:
        _await_version(cfg, client, champion.line, name)
        answer = _ask(cfg, client, champion.line, name)
    body = {"version": champion.body["version"], "prompt": cfg.prompt, **answer}
    return ledger.append("served", champion.line, champion.hash, body)


def _await_version(cfg: Deploy, client: httpx.Client, line: str, name: str) -> None:
    deadline = time.monotonic() + cfg.timeout_seconds
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            response = client.get("/ready")
            said = response.text
            if response.is_success and _champion(response.json(), line) == name:
                return
        except httpx.TransportError as problem:
            said = str(problem)
        time.sleep(POLL_SECONDS)
    raise DeployError(
        f"{client.base_url}: does not serve {name} after {cfg.timeout_seconds:g} s; it last said: {said}; "
        f"see .tidemill/servers/model.log, or give deploy.timeout_seconds more"
    )


def _champion(state: dict[str, Any], line: str) -> str | None:
    """The version that answers for a line; the server's words name others too, as a challenger on trial."""
    model = (state["lines"].get(line) or {}).get("model") or {}
    return model.get("name")


def _ask(cfg: Deploy, client: httpx.Client, line: str, name: str) -> dict[str, Any]:
    began = time.monotonic()
    request = {"model": line, "prompt": cfg.prompt, "max_tokens": cfg.max_tokens, "temperature": 0.8, "seed": 1}
    response = client.post("/v1/completions", json=request)
    if not response.is_success:
        raise DeployError(f"{response.url}: answered {response.status_code}: {response.text[:500]}")
    served = response.headers.get("x-tidemill-version")
    if served != name:
        raise DeployError(f"{response.url}: answered with {served}, not with {name}; another promotion came between")
    answer = response.json()["choices"][0]["text"]
    return {"answer": answer, "seconds": round(time.monotonic() - began, 3)}
