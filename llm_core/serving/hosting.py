"""The lines that a server hosts, and which of their versions are in memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llm_core.serving.canary import Trial, Verdict
    from llm_core.serving.loaded import LoadedModel
    from llm_core.serving.registry import RegisteredVersion


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Following:
    """What the follower knows, for /ready and /version."""

    champion: str | None = None
    """The version that the registry last named, served or not."""
    refused: str | None = None
    """The version that should serve and may not."""
    refused_because: str | None = None
    registry_error: str | None = None
    """Why the registry could not be asked, the last time."""
    challenger: str | None = None
    """The version that the registry last named as challenger, on trial or not."""
    challenger_refused_because: str | None = None


class LineObserver(Protocol):
    """Who wants to know what happens to a line, in one of the server's threads."""

    def swapped(self, line: str, before: LoadedModel | None, after: LoadedModel) -> None:
        """Another version took over."""

    def refused(self, line: str, version: str, reason: str) -> None:
        """A version should serve and may not."""

    def challenged(self, line: str, challenger: LoadedModel) -> None:
        """A version is tried beside the champion."""

    def judged(self, line: str, version: str, verdict: Verdict) -> None:
        """There is a verdict on the version on trial."""


@dataclass
class Line:
    """One line's models in memory. The follower replaces them whole; requests take what is there at the moment."""

    name: str
    champion: LoadedModel | None = None
    previous: LoadedModel | None = None
    """Stays loaded, so that a revert takes no time."""
    trial: Trial | None = None
    """The challenger, and what is seen of it; over when another champion comes."""
    following: Following = field(default_factory=Following)
    last_used: float = 0.0
    """When it was asked last, in seconds of the monotonic clock."""
    is_unloaded: bool = False
    """Whether its models gave way to those of other lines; the next request brings its champion back."""
    observers: list[LineObserver] = field(default_factory=list)

    def install(self, model: LoadedModel) -> None:
        """Give new requests this model; running ones finish on theirs."""
        self.previous, self.champion, self.is_unloaded = self.champion, model, False
        self.trial = None
        for observer in self.observers:
            observer.swapped(self.name, self.previous, model)

    def begin(self, trial: Trial) -> None:
        """Try a challenger beside the champion."""
        self.trial = trial
        for observer in self.observers:
            if trial.model is not None:
                observer.challenged(self.name, trial.model)

    def judge(self, trial: Trial, verdict: Verdict) -> None:
        """Tell a trial's verdict, if that trial is still the one of this line."""
        if trial is self.trial:
            for observer in self.observers:
                observer.judged(self.name, trial.name, verdict)

    def refuse(self, name: str, reason: str) -> None:
        """Note a version that should serve and may not."""
        self.following = replace(self.following, refused=name, refused_because=reason)
        for observer in self.observers:
            observer.refused(self.name, name, reason)

    def refuse_challenger(self, name: str, reason: str) -> None:
        """Note a version that should be tried and may not."""
        self.following = replace(self.following, challenger_refused_because=reason)
        for observer in self.observers:
            observer.refused(self.name, name, reason)

    def use(self) -> LoadedModel | None:
        """The champion for a request; a line that was unloaded will be loaded again."""
        self.last_used, self.is_unloaded = time.monotonic(), False
        return self.champion

    def unload(self) -> None:
        """Give the memory back once the last answers have ended."""
        self.champion, self.previous, self.trial, self.is_unloaded = None, None, None, True

    def loaded(self, version: RegisteredVersion) -> LoadedModel | None:
        """This very version, if it is in memory."""
        return next((model for model in self.models() if model.version == version), None)

    def models(self) -> Iterator[LoadedModel]:
        """Those in memory, the champion first."""
        challenger = self.trial.model if self.trial else None
        yield from (model for model in (self.champion, self.previous, challenger) if model is not None)

    def answering(self) -> Iterator[LoadedModel]:
        """Those that answer who asks for them: all but a challenger that nobody should hear of."""
        hidden = self.trial.model if self.trial and self.trial.canary.shadow else None
        yield from (model for model in self.models() if model is not hidden)


class Host:
    """All lines of one server; the first is the one that /ready speaks of."""

    def __init__(
        self, names: Sequence[str], aliases: Mapping[str, str] = MappingProxyType({}), most_bytes: int | None = None
    ) -> None:
        self.lines = {name: Line(name, observers=[self]) for name in names}
        self._most_bytes = most_bytes
        self.aliases = dict(aliases)
        """Further names of lines, for clients that ask for a model by a name of their own."""
        for alias, name in self.aliases.items():
            if name not in self.lines:
                raise ValueError(f"alias {alias}={name}: {name} is not served here, only {', '.join(self.lines)}")

    @property
    def first(self) -> Line:
        """The line that the server was started for."""
        return next(iter(self.lines.values()))

    def line_of(self, name: str) -> Line | None:
        """The line of ``LINE``, ``LINE@VERSION`` or an alias."""
        return self.lines.get(self.aliases.get(name, name.partition("@")[0]))

    def models(self) -> Iterator[LoadedModel]:
        """Every model in memory."""
        for line in self.lines.values():
            yield from line.models()

    def answering(self) -> Iterator[LoadedModel]:
        """Every model that can be asked by its name."""
        for line in self.lines.values():
            yield from line.answering()

    def swapped(self, line: str, before: LoadedModel | None, after: LoadedModel) -> None:
        """Keep to the memory allowed."""
        self._make_room(line, after)

    def challenged(self, line: str, challenger: LoadedModel) -> None:
        """Keep to the memory allowed."""
        self._make_room(line, challenger)

    def judged(self, line: str, version: str, verdict: Verdict) -> None:
        """Nothing to do: a reverted challenger has left memory by itself."""

    def refused(self, line: str, version: str, reason: str) -> None:
        """Nothing to do: a refused version is not in memory."""

    def _make_room(self, line: str, after: LoadedModel) -> None:
        """Versions before the present ones go first, then whole lines.

        Of each the line that was not asked for the longest time; the one that was just loaded stays.
        """
        others = sorted((each for each in self.lines.values() if each.name != line), key=lambda each: each.last_used)
        for each in (*others, self.lines[line]):
            if self._is_too_much():
                each.previous = None
        for each in others:
            if self._is_too_much() and each.champion is not None:
                logger.info("%s is unloaded, the memory is needed for %s", each.champion.name, after.name)
                each.unload()

    def _is_too_much(self) -> bool:
        return self._most_bytes is not None and sum(model.num_bytes for model in self.models()) > self._most_bytes
