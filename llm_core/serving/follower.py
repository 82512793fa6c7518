"""Follows the registry: when the champion changes, the new version is loaded beside the old one and then takes over.

A version that cannot be trusted or loaded never serves, and a registry that is away changes nothing for those who ask.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from llm_core.serving.hosting import Line
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion, Registry
from llm_core.serving.settings import DEFAULT_SETTINGS, RunnerSettings

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
MAX_RETRY_SECONDS = 60.0
"""A refused version is tried again, later each time: what it lacked (a ledger entry, a file) may have come."""


class Follower:
    """A thread that keeps a line on its champion; use it as a context."""

    def __init__(
        self,
        line: Line,
        registry: Registry,
        admit: Callable[[RegisteredVersion], None],
        settings: RunnerSettings = DEFAULT_SETTINGS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._line, self._registry, self._admit, self._settings = line, registry, admit, settings
        self._poll_seconds = poll_seconds
        self._refused: RegisteredVersion | None = None
        self._retry_at, self._retry_seconds = 0.0, poll_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"follower of {line.name}", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not joined: it may be waiting for a registry that is away, and holds nothing that must be put down.
        self._stopped.set()

    def check(self) -> None:
        """Ask the registry once and act on its answer."""
        try:
            champion = self._registry.champion(self._line.name)
        except Exception as problem:  # a registry may fail in any way; those who ask the server must not notice
            self._away(problem)
            return
        if self._line.following.registry_error:
            logger.info("%s: the registry answers again", self._line.name)
        self._line.following = replace(
            self._line.following, champion=champion.name if champion else None, registry_error=None
        )
        if champion is not None and not self._is_served(champion) and self._is_due(champion):
            self._take(champion)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self.check()
            self._stopped.wait(self._poll_seconds)

    def _is_served(self, champion: RegisteredVersion) -> bool:
        current = self._line.champion
        if current is None or current.version != champion:
            return False
        self._forget_refusal()  # the alias came back to what is served
        return True

    def _is_due(self, champion: RegisteredVersion) -> bool:
        return champion != self._refused or time.monotonic() >= self._retry_at

    def _take(self, champion: RegisteredVersion) -> None:
        began = time.monotonic()
        try:
            self._admit(champion)
            model = self._line.loaded(champion) or self._load(champion)
        except Exception as problem:  # whatever is wrong with the new version, the old one goes on
            self._refuse(champion, problem)
            return
        self._line.install(model)
        self._forget_refusal()
        logger.info("%s serves (after %.1f s)", champion.name, time.monotonic() - began)

    def _load(self, version: RegisteredVersion) -> LoadedModel:
        return LoadedModel.load(version, self._registry.fetch(version), self._settings)

    def _refuse(self, champion: RegisteredVersion, problem: Exception) -> None:
        again = champion == self._refused
        self._retry_seconds = min(2 * self._retry_seconds, MAX_RETRY_SECONDS) if again else self._poll_seconds
        self._refused, self._retry_at = champion, time.monotonic() + self._retry_seconds
        reason = f"{type(problem).__name__}: {problem}"
        self._line.refuse(champion.name, reason)
        current = self._line.champion
        stays = f"{current.name} goes on" if current else "nothing is served"
        logger.error("%s is refused, %s: %s", champion.name, stays, reason)

    def _forget_refusal(self) -> None:
        self._refused, self._retry_seconds = None, self._poll_seconds
        if self._line.following.refused is not None:
            self._line.following = replace(self._line.following, refused=None, refused_because=None)

    def _away(self, problem: Exception) -> None:
        reason = f"{type(problem).__name__}: {problem}"
        if self._line.following.registry_error is None:  # once per outage, not every two seconds
            logger.warning("%s: the registry cannot be asked, serving goes on: %s", self._line.name, reason)
        self._line.following = replace(self._line.following, registry_error=reason)
