"""What the gateway knows of another engine's program: how it is started, and how it is asked."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llm_core.generate import Sampling, Token

if TYPE_CHECKING:
    import httpx

    from llm_core.serving.jobs import Answer


class BackendError(ValueError):
    """A program that cannot be started, ended, or says something else than it should; the message names it."""


class NotInstalled(BackendError):
    """A program that this machine does not have; the message says where it comes from."""


@dataclass(frozen=True)
class Request:
    """What a program is asked for. Not the job itself: what is left of a broken connection may hold this for long, and
    whoever holds a job holds its model, and with it the program."""

    ids: tuple[int, ...]
    limit: int
    sampling: Sampling
    stop_ids: frozenset[int]
    num_top: int
    tells_logprobs: bool
    tells_prompt: bool

    @classmethod
    def of(cls, answer: Answer) -> Request:
        """What an answer needs."""
        job = answer.job
        return cls(job.ids, answer.limit, job.sampling, job.stop_ids, job.num_top, job.tells_logprobs, job.tells_prompt)


class Program(Protocol):
    """How one engine's program runs one model version."""

    @property
    def name(self) -> str:
        """Of the program, for messages."""

    @property
    def max_running(self) -> int:
        """Answers that it writes at the same time."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables beside those of this process."""

    def command(self, port: int) -> list[str]:
        """Program and arguments to listen on this port of 127.0.0.1."""

    def verify(self) -> None:
        """Raise ValueError where the files that it will read are not those that were loaded; asked at each start."""

    def read(self, client: httpx.AsyncClient, request: Request) -> AsyncGenerator[Token]:
        """The prompt's tokens behind the first, with their log-probabilities."""

    def write(self, client: httpx.AsyncClient, request: Request) -> AsyncGenerator[Token]:
        """The tokens of an answer as they come, at most its limit; the first of its stop ids is the last."""


def find_program(name: str, variable: str, advice: str) -> str:
    """The path of a program: what the environment's `variable` says, else on the PATH, else beside this Python.

    Raises NotInstalled, with `advice`, where there is none.
    """
    given = os.environ.get(variable)
    found = shutil.which(given or name) or (None if given else shutil.which(Path(sys.executable).with_name(name)))
    if found is None:
        reason = f"{variable} is {given}, which is no program" if given else f"the program {name} is not installed"
        raise NotInstalled(f"{reason}; {advice}, or set {variable} to its path")
    return found
