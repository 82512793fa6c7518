"""Why a model says what it says: tokens that spoke for it, where they look, what it has read that is like it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_core.artifact import Artifact, ArtifactError
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from llm_core.evals.nearest import Passage
    from llm_core.serving.loaded import LoadedModel
    from llm_core.serving.task_schema import ExplainReply
    from llm_core.serving.workers import Work

MOST_DRAWN = 40
"""Tokens of a text whose attention is drawn: more could not be read."""
WRITTEN_TOKENS = 40


@dataclass(frozen=True)
class Explained:
    """A text, what the model says to it and why."""

    text: str
    reply: ExplainReply
    written: str = ""
    """How the model goes on at temperature 0; empty for a classifier."""
    passages: list[Passage] = field(default_factory=list)
    """What the training documents and the written text share."""
    searched: bool = False
    """Whether there were training documents to search."""


def load(name: str, folder: Path) -> LoadedModel:
    """The model of a verified folder, under a name for people."""
    from llm_core.serving.loaded import LoadedModel
    from llm_core.serving.registry import FolderRegistry

    version = FolderRegistry(folder).champion(name)
    assert version is not None  # a folder has one
    return LoadedModel.load(version, folder)


def explained(
    model: LoadedModel, text: str, target: str | None = None, steps: int = 64, index: Path | None = None
) -> Explained:
    """The explanation of one text; raises ValueError for what this model cannot read or say.

    `index` is that of the training documents, to look for what the model writes.
    """
    from llm_core.evals.nearest import nearest
    from llm_core.serving.errors import ApiError
    from llm_core.serving.explaining import explain
    from llm_core.serving.task_schema import ExplainRequest

    body = ExplainRequest(model=model.name, input=text, target=target, steps=steps, attention=_is_drawn(model, text))
    try:
        reply = _finished(explain(model, body))
    except ApiError as problem:
        raise ValueError(str(problem)) from None
    written = _written(model, text) if model.task == "causal_lm" else ""
    passages = nearest(index, written or text) if index else []
    return Explained(text, reply, written, passages, searched=index is not None)


def training_index(ws: Workspace, model: Artifact) -> Path | None:
    """The index of the documents that this model was trained on, made where it is missing.

    None where the workspace holds other documents by now, or none.
    """
    from llm_core.evals.nearest import INDEX, Source, make_index
    from llm_core.text.document import CleanDocument
    from llm_core.text.shards import read_documents

    try:
        tokens, documents = Artifact.peek(ws.out / "tokenize"), Artifact.peek(ws.out / "clean")
    except ArtifactError:
        return None
    if model.parents.get("tokenize") != tokens.digest or tokens.parents.get("clean") != documents.digest:
        return None
    place = ws.home / "nearest" / tokens.digest  # by what the model's manifest names: a server has no documents
    if not (place / INDEX).exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        found = (each for each in read_documents(documents.path, CleanDocument) if each.split == "train")
        make_index((Source(each.sha256, each.source, each.text) for each in found), place)
    return place


def _is_drawn(model: LoadedModel, text: str) -> bool:
    config: Any = model.network.config
    return hasattr(config, "num_heads") and len(model.codec.plain(text).ids) <= MOST_DRAWN


def _written(model: LoadedModel, text: str) -> str:
    from llm_core.generate import generate

    if model.speller is None:
        return ""
    ids, end_id = model.encode_prompt(text), model.speller.end_id
    most = min(WRITTEN_TOKENS, model.context - len(ids))
    if most < 1:
        return ""
    return model.speller.decode(list(generate(model.network, ids, max_tokens=most, temperature=0.0, stop_ids={end_id})))


def _finished(work: Work[ExplainReply]) -> ExplainReply:
    """The result of work that takes turns, with nobody else there."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: ExplainReply = end.value
            return found
