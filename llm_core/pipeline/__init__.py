"""The one-liner: ``pipeline("text-generation", "out/train")("The state of", max_length=50, num_return_sequences=3)``.

Tasks, options and results are named as in `transformers`' pipelines. Nothing is downloaded, and no code of a folder
runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from llm_core.models import load_pretrained
from llm_core.models.interface import ModelError, Task
from llm_core.pipeline.codec import Codec
from llm_core.pipeline.understanding import (
    FeatureExtraction,
    FillMask,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)
from llm_core.pipeline.writing import Summarization, TextGeneration, TextToText, Translation, Writing

__all__ = ["TASKS", "Writing", "pipeline", "task_named"]


class PipelineKind(NamedTuple):
    """Who does a task, and which kinds of model can."""

    make: Any
    models: tuple[Task, ...]


TASKS: Mapping[str, PipelineKind] = {
    "text-generation": PipelineKind(TextGeneration, ("causal_lm",)),
    "text2text-generation": PipelineKind(TextToText, ("seq2seq_lm",)),
    "summarization": PipelineKind(Summarization, ("seq2seq_lm",)),
    "translation": PipelineKind(Translation, ("seq2seq_lm",)),
    "fill-mask": PipelineKind(FillMask, ("masked_lm",)),
    "text-classification": PipelineKind(TextClassification, ("sequence_classification",)),
    "token-classification": PipelineKind(TokenClassification, ("token_classification",)),
    "question-answering": PipelineKind(QuestionAnswering, ("question_answering",)),
    "feature-extraction": PipelineKind(FeatureExtraction, get_args(Task)),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline(task: str | None, model: Path | str) -> Any:
    """What does `task` with the model in the folder `model`: call it with texts, it gives dicts.

    Without a task it does what this kind of model is for. Raises ValueError for an unknown task, ModelError for a
    folder that holds no model that can do it.
    """
    name = None if task is None else task_named(task)
    folder = Path(model)
    network = load_pretrained(folder)
    possible = [other for other, offered in TASKS.items() if network.task in offered.models]
    name = possible[0] if name is None else name
    if name not in possible:
        raise ModelError(f"{folder}: a {network.task} model cannot do {name}; it can do {', '.join(possible)}")
    return TASKS[name].make(network, Codec(folder, reads_specials=name == "fill-mask"), name)


def task_named(task: str) -> str:
    """The task behind a name or another name of it; raises ValueError for an unknown one."""
    name = ALIASES.get(task, task)
    if name not in TASKS:
        raise ValueError(f"task {task!r} is not known; there are {', '.join(sorted([*TASKS, *ALIASES]))}")
    return name
