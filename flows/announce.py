"""Tells Prefect what happens in the model server, so that its automations can act: notify, pause the nightly, ..."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from llm_core.serving.canary import Verdict
    from llm_core.serving.loaded import LoadedModel

logger = logging.getLogger("llm_core.serving.announce")

MOST_WAITING = 100
SECONDS = 5.0


class Announcer:
    """Sends events from a thread of its own; serving never waits for Prefect, and goes on without it."""

    def __init__(self, api: str) -> None:
        self._api = api.rstrip("/")
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(MOST_WAITING)
        self._is_away = False
        threading.Thread(target=self._send_all, name="announcer", daemon=True).start()

    def swapped(self, line: str, before: LoadedModel | None, after: LoadedModel) -> None:
        """``tidemill.model.swapped``: another version took over."""
        self._put("swapped", line, {"version": after.name, "before": before.name if before else None})

    def refused(self, line: str, version: str, reason: str) -> None:
        """``tidemill.model.refused``: a version should serve and may not."""
        self._put("refused", line, {"version": version, "reason": reason})

    def challenged(self, line: str, challenger: LoadedModel) -> None:
        """``tidemill.model.challenged``: a version is tried beside the champion."""
        self._put("challenged", line, {"version": challenger.name})

    def judged(self, line: str, version: str, verdict: Verdict) -> None:
        """``tidemill.model.passed`` or ``tidemill.model.reverted``: the verdict on a challenger."""
        self._put(verdict.outcome, line, {"version": version, "reason": verdict.reason})

    def _put(self, what: str, line: str, facts: dict[str, Any]) -> None:
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": f"tidemill.model.{what}",
            "resource": {"prefect.resource.id": f"tidemill.line.{line}", "prefect.resource.name": line},
            "payload": facts,
        }
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            logger.warning("an event is lost, Prefect takes none: %s", event["event"])

    def _send_all(self) -> None:
        with httpx.Client(timeout=SECONDS, trust_env=False) as client:
            while True:
                self._send(client, self._waiting.get())

    def _send(self, client: httpx.Client, event: dict[str, Any]) -> None:
        try:
            client.post(f"{self._api}/events", json=[event]).raise_for_status()
            self._is_away = False
        except httpx.HTTPError as problem:
            if not self._is_away:  # once per outage
                logger.warning("Prefect cannot be told of %s: %s", event["event"], problem)
            self._is_away = True
