"""A model that is a table: what it writes for a prompt, and how likely it finds a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llm_core.evals.suite import Likelihood


@dataclass
class Answering:
    """A subject that answers by functions and keeps what it was asked."""

    writes: Callable[[str], str] = lambda prompt: ""
    logprob: Callable[[str, str], float] = lambda context, text: 0.0
    prompts: list[str] = field(default_factory=list)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        return [Likelihood(self.logprob(*pair), max(1, len(pair[1].split())), False) for pair in pairs]

    def bits(self, texts: Sequence[str]) -> list[float]:
        return [8.0 * len(text.encode()) for text in texts]

    def write(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        self.prompts += prompts
        written = [" ".join(self.writes(prompt).split(" ")[:max_tokens]) for prompt in prompts]
        for mark in stop:
            written = [text.split(mark)[0] for text in written]
        return written
