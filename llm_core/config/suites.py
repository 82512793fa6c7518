"""Which suites the evaluate stage asks a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llm_core.config.section import Section

SuiteKind = Literal[
    "bias",
    "canaries",
    "classification",
    "code",
    "diversity",
    "domains",
    "extraction",
    "extraction_unseen",
    "generation",
    "leakage",
    "lm_eval",
    "long_context",
    "multiple_choice",
    "refusal",
    "sentiment",
    "toxicity",
    "truthfulness",
]
ASKED_FROM_A_TABLE = ("canaries", "classification", "code", "domains", "generation", "multiple_choice", "truthfulness")
"""Kinds that have no examples of their own."""
WITH_WORDS = ("sentiment", "toxicity")
"""Kinds that need a list of words."""
SOLVED_FIRST = ("classification", "generation", "lm_eval", "multiple_choice")
"""Kinds whose prompts may begin with solved examples."""


class SuiteSpec(Section):
    """A suite, and where its examples are from."""

    kind: SuiteKind
    """What is asked; docs/how-to/evaluate.md says of each what its examples hold and which numbers it gives."""
    name: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9_-]*)?$")
    """Its name in reports and guards; empty for its kind."""
    examples: str = ""
    """A table of examples (.jsonl, .csv or .parquet): a path, pkg://PACKAGE/PATH, or what fsspec reads (hf://, s3://).

    Empty for those of its kind: probes that come with it, or the run's own documents."""
    task: str = ""
    """For lm_eval: a task of lm-evaluation-harness by its name, or by the path of its .yaml file."""
    words: tuple[str, ...] = ()
    """Lists of words: rated ones for sentiment, bad ones for toxicity."""
    examples_sha256: str = ""
    """Digest of the table; filled in when the run's recipe is resolved, as is the next."""
    words_sha256: str = ""
    """Digest of the lists."""
    shots: int = Field(default=0, ge=0, le=64)
    """So many examples of the table are not asked, but stand solved in front of each prompt."""
    limit: int = Field(default=100, ge=1)
    """Most examples that are asked; which of them follows from their content."""
    max_tokens: int = Field(default=32, ge=1)
    """Length of what the model writes to each."""

    @property
    def title(self) -> str:
        """The name, or without one the kind."""
        return self.name or self.kind

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> SuiteSpec:
        if self.kind in ASKED_FROM_A_TABLE and not self.examples:
            raise ValueError(f"{self.kind} has no examples of its own; name a table with examples: PATH")
        if (self.kind in WITH_WORDS) != bool(self.words):
            verb = "needs" if self.kind in WITH_WORDS else "takes no"
            raise ValueError(f"{self.kind} {verb} words; {', '.join(WITH_WORDS)} are asked with lists of words")
        if (self.kind == "lm_eval") != bool(self.task) or (self.task and self.examples):
            raise ValueError("lm_eval needs a task and no examples; other kinds have no task")
        if self.shots and self.kind not in SOLVED_FIRST:
            raise ValueError(f"{self.kind} takes no shots; {', '.join(SOLVED_FIRST)} do")
        if self.title in ("documents", "anchor"):
            raise ValueError(f"name {self.title!r} is that of the held-out documents; choose another")
        return self
