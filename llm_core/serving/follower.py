"""Follows the registry: when the champion changes, the new version is loaded beside the old one and then takes over.

A challenger is loaded in the same way and tried beside the champion. A version that cannot be trusted or loaded never
serves, and a registry that is away changes nothing for those who ask.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType

from llm_core.serving.canary import Canary, Trial
from llm_core.serving.hosting import Line
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion, Registry
from llm_core.serving.settings import DEFAULT_SETTINGS, RunnerSettings

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
MAX_RETRY_SECONDS = 60.0
"""A refused version is tried again, later each time: what it lacked (a ledger entry, a file) may have come."""


@dataclass
class Refusal:
    """The version that was refused last, and when it is tried again."""

    first_seconds: float
    version: RegisteredVersion | None = None
    seconds: float = 0.0
    retry_at: float = 0.0

    def note(self, version: RegisteredVersion) -> None:
        """Wait before the next try, longer than before where it is the same version."""
        again = version == self.version
        self.seconds = min(2 * self.seconds, MAX_RETRY_SECONDS) if again else self.first_seconds
        self.version, self.retry_at = version, time.monotonic() + self.seconds

    def is_over(self, version: RegisteredVersion) -> bool:
        """Whether this version may be tried now."""
        return version != self.version or time.monotonic() >= self.retry_at

    def forget(self) -> None:
        """Nothing is refused any more."""
        self.version = None


AdmitChallenger = Callable[[RegisteredVersion], Canary | None]
"""How a challenger is tried, None for one whose challenge is over; raises for one that may not be tried."""


def admit_no_challenger(version: RegisteredVersion) -> Canary | None:
    """For servers without a ledger."""
    raise ValueError(f"{version.name}: this server tries no challengers")


class Follower:
    """A thread that keeps a line on its champion; use it as a context."""

    def __init__(
        self,
        line: Line,
        registry: Registry,
        admit: Callable[[RegisteredVersion], None],
        settings: RunnerSettings = DEFAULT_SETTINGS,
        poll_seconds: float = POLL_SECONDS,
        admit_challenger: AdmitChallenger = admit_no_challenger,
    ) -> None:
        self._line, self._registry, self._admit, self._settings = line, registry, admit, settings
        self._poll_seconds, self._admit_challenger = poll_seconds, admit_challenger
        self._refused, self._challenger_refused = Refusal(poll_seconds), Refusal(poll_seconds)
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
        """Ask the registry once and act on its answer; a line that was unloaded waits for its next request."""
        if self._line.is_unloaded:
            return
        try:
            champion = self._registry.champion(self._line.name)
            challenger = self._registry.challenger(self._line.name)
        except Exception as problem:  # a registry may fail in any way; those who ask the server must not notice
            self._away(problem)
            return
        if self._line.following.registry_error:
            logger.info("%s: the registry answers again", self._line.name)
        self._line.following = replace(
            self._line.following, champion=champion.name if champion else None, registry_error=None
        )
        if champion is not None and not self._is_served(champion) and self._refused.is_over(champion):
            self._take(champion)
        if self._line.champion is not None:
            self._try(challenger)

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

    def _try(self, challenger: RegisteredVersion | None) -> None:
        """Have the challenger tried, and no other; a trial that is over leaves running answers alone."""
        name = challenger.name if challenger else None
        if name != self._line.following.challenger:
            self._line.following = replace(self._line.following, challenger=name, challenger_refused_because=None)
        if challenger is None:
            self._line.trial = None
            return
        if not self._challenger_refused.is_over(challenger):
            return
        try:
            canary = self._admit_challenger(challenger)
            if canary is None:
                self._line.trial = None
            elif self._line.trial is None or self._line.trial.canary != canary:
                self._begin(challenger, canary)
        except Exception as problem:  # whatever is wrong with the challenger, the champion goes on
            self._line.trial = None
            self._challenger_refused.note(challenger)
            reason = f"{type(problem).__name__}: {problem}"
            self._line.refuse_challenger(challenger.name, reason)
            logger.error("%s is not tried: %s", challenger.name, reason)

    def _begin(self, challenger: RegisteredVersion, canary: Canary) -> None:
        import scipy.stats  # noqa: F401 - a second or two, here where nobody waits

        began = time.monotonic()
        model = self._line.loaded(challenger) or self._load(challenger)
        self._line.begin(Trial(model, canary, self._line.judge))
        self._challenger_refused.forget()
        self._line.following = replace(self._line.following, challenger_refused_because=None)
        logger.info("%s is on trial (after %.1f s)", challenger.name, time.monotonic() - began)

    def _load(self, version: RegisteredVersion) -> LoadedModel:
        return LoadedModel.load(version, self._registry.fetch(version), self._settings)

    def _refuse(self, champion: RegisteredVersion, problem: Exception) -> None:
        self._refused.note(champion)
        reason = f"{type(problem).__name__}: {problem}"
        self._line.refuse(champion.name, reason)
        current = self._line.champion
        stays = f"{current.name} goes on" if current else "nothing is served"
        logger.error("%s is refused, %s: %s", champion.name, stays, reason)

    def _forget_refusal(self) -> None:
        self._refused.forget()
        if self._line.following.refused is not None:
            self._line.following = replace(self._line.following, refused=None, refused_because=None)

    def _away(self, problem: Exception) -> None:
        reason = f"{type(problem).__name__}: {problem}"
        if self._line.following.registry_error is None:  # once per outage, not every two seconds
            logger.warning("%s: the registry cannot be asked, serving goes on: %s", self._line.name, reason)
        self._line.following = replace(self._line.following, registry_error=reason)
