"""The replies of the routes that tell what is served and how the server is, as the API's document describes them."""

from __future__ import annotations

from typing import Literal

from llm_core.serving.reply_schema import Part


class ModelFacts(Part):
    """Facts about a version."""

    name: str
    version: str
    artifact: str
    """Digest of the files."""
    key: str
    """sha256 of everything that the weights follow from."""
    context: int
    vocab_size: int
    num_parameters: int
    has_chat_template: bool
    task: str
    """What the model's head is for."""
    routes: list[str]
    """The routes that it answers."""
    backend: str
    """The engine that writes: ours, or the program of another."""


class ModelEntry(Part):
    """A model as OpenAI's lists have it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    tidemill: ModelFacts


class ModelList(Part):
    """GET /v1/models."""

    object: Literal["list"]
    data: list[ModelEntry]


class HealthReply(Part):
    """GET /health."""

    status: Literal["ok"]


class RegistryState(Part):
    """What the registry says of a line."""

    champion: str | None
    refused: str | None
    refused_because: str | None
    registry_error: str | None
    challenger: str | None
    challenger_refused_because: str | None


class ComparisonState(Part):
    """One thing in which a challenger may be worse."""

    what: str
    champion: float
    challenger: float
    num_champion: int
    num_challenger: int
    p_value: float


class TrialState(Part):
    """A challenger beside the champion."""

    challenger: str
    percent: float
    shadow: bool
    min_requests: int
    looks: int
    alpha: float
    max_slowdown: float
    max_loss: float
    challenge: str
    """Hash of the ledger's entry that began it."""
    answers: dict[str, int]
    """Answers seen of each side."""
    texts: int
    """Texts that both have read."""
    next_look: int
    """Number of the challenger's answers at which it is compared again."""
    verdict: Literal["running", "passed", "reverted"]
    reason: str
    comparisons: list[ComparisonState]


class LineState(Part):
    """What a line serves."""

    model: ModelFacts | None
    previous: str | None
    trial: TrialState | None
    trouble: str | None
    """Why nothing can be answered now, where another engine's program is started again."""
    registry: RegistryState


class ReadyReply(LineState):
    """GET /ready: the first line's state, and that of all lines."""

    status: Literal["ready", "waiting", "draining"]
    line: str
    lines: dict[str, LineState]


class VersionReply(ReadyReply):
    """GET /version."""

    tidemill: str
    """The server's own version."""
