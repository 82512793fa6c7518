"""Which routes are for which kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llm_core.models.interface import Task

if TYPE_CHECKING:
    from llm_core.serving.loaded import LoadedModel

WRITING = ("completions", "chat/completions")
ROUTES: Mapping[Task, tuple[str, ...]] = {
    "causal_lm": (*WRITING, "explain"),
    "seq2seq_lm": (*WRITING, "translate", "summarize"),
    "sequence_classification": ("classify", "explain"),
    "token_classification": ("classify",),
    "question_answering": ("answer",),
    "masked_lm": (),
    "embedding": (),
}
FOR_ALL = ("embeddings", "tokenize", "detokenize")
ELSEWHERE = (*WRITING, "tokenize", "detokenize")
"""What needs no weights in this process."""


def routes_of(model: LoadedModel) -> list[str]:
    """The routes that this model answers."""
    own = (route for route in ROUTES[model.task] if model.writes or route not in WRITING)
    return [route for route in (*own, *FOR_ALL) if model.backend == "tidemill" or route in ELSEWHERE]
