"""Rows of texts through one model, a batch of like lengths at a time: how tables and MLflow's view are scored.

A scorer reads a row first, which may refuse it, and scores rows that were read; it names what it reads and gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from llm_core.generate import ContextExceeded, Sampling
from llm_core.models import ModelError, saved_task
from llm_core.pipeline import TASKS, pipeline, task_named
from llm_core.pipeline.understanding import (
    FeatureExtraction,
    FillMask,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
)
from llm_core.pipeline.writing import Writing

BATCH_SIZE = 32
Kind = Literal["text", "count", "number", "vector", "entities"]
Reason = Literal["empty", "not_text", "too_long", "unreadable"]


class Refused(ValueError):
    """A row that the model cannot read."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """A row as the model reads it."""

    texts: tuple[str, ...]
    ids: Any
    """What its texts became: ids of a prompt, or encodings."""
    size: int
    """In tokens; rows of like sizes are cheap together."""


@dataclass(frozen=True)
class WritingOptions:
    """How answers are written; row number i of a table draws from `seed` + i."""

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        if isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise ValueError(f"max_tokens {self.max_tokens!r} must be a whole number of at least 1")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise ValueError(f"stop {list(self.stop)!r} must be texts of at least one character")
        self.sampling()

    def sampling(self) -> Sampling:
        """What draws the tokens."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)


class Scorer:
    """What all tasks have in common."""

    reads: ClassVar[tuple[str, ...]] = ("text",)
    """Names of the texts that a row has."""
    may_read: ClassVar[tuple[str, ...]] = ()
    """Names of the texts that it may have behind them."""
    gives: ClassVar[Mapping[str, Kind]]
    """Names and kinds of what a row gets."""

    def __init__(self, made: Any) -> None:
        self._pipeline = made
        self.task: str = made.task
        self.options: Mapping[str, Any] = {}
        """What the results follow from besides the texts, as JSON has it."""

    def read(self, *texts: object) -> Row:
        """A row as the model reads it; raises Refused, with a reason, for one that it cannot read."""
        names = (*self.reads, *self.may_read)
        checked = tuple(_checked(name, text) for name, text in zip(names, texts, strict=False))
        try:
            return self._read(checked)
        except ContextExceeded as problem:
            raise Refused("too_long", str(problem)) from None
        except ValueError as problem:
            raise Refused("unreadable", str(problem)) from None

    def score(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any]]:
        """What each row gets; `numbers` are the rows' places in the table."""
        logits = self._pipeline.logits([row.ids for row in rows])
        return [self._result(row, found) for row, found in zip(rows, logits, strict=True)]

    def _read(self, texts: tuple[str, ...]) -> Row:
        encoding = self._pipeline.read(*texts)
        return Row(texts, encoding, len(encoding.ids))

    def _result(self, row: Row, logits: Any) -> dict[str, Any]:
        raise NotImplementedError


class Writes(Scorer):
    """Answers to prompts."""

    gives: ClassVar[Mapping[str, Kind]] = {"answer": "text", "num_tokens": "count", "finish_reason": "text"}

    def __init__(self, made: Writing, options: WritingOptions) -> None:
        super().__init__(made)
        self._options = options
        self.options = {**asdict(options), "stop": list(options.stop)}

    def with_options(self, **options: Any) -> Writes:
        """The same model with other options."""
        return type(self)(self._pipeline, writing_options(**options))

    def score(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any]]:
        options = self._options
        found = self._pipeline.answers(
            [row.ids for row in rows],
            options.max_tokens,
            options.sampling(),
            options.stop,
            seeds=[options.seed + number for number in numbers],
        )
        return [
            {"answer": answer.text, "num_tokens": len(answer.ids), "finish_reason": answer.reason}
            for (answer,) in found
        ]

    def _read(self, texts: tuple[str, ...]) -> Row:
        ids = self._pipeline.read(*texts)
        return Row(texts, ids, len(ids))


class Continues(Writes):
    """Continuations: the text is a prompt."""

    reads = ("prompt",)


class Classifies(Scorer):
    """The likeliest label of a text or of a pair of texts."""

    may_read = ("text_pair",)
    gives: ClassVar[Mapping[str, Kind]] = {"label": "text", "score": "number"}

    def _result(self, row: Row, logits: Any) -> dict[str, Any]:
        best: dict[str, Any] = self._pipeline.labels(logits)[0]
        return best


class Tags(Scorer):
    """The entities of a text, neighbours of one kind as one."""

    gives: ClassVar[Mapping[str, Kind]] = {"entities": "entities"}

    def _result(self, row: Row, logits: Any) -> dict[str, Any]:
        return {"entities": self._pipeline.entities(row.texts[0], row.ids, logits)}


class Fills(Scorer):
    """The text with the likeliest token in each mask's place."""

    gives: ClassVar[Mapping[str, Kind]] = {"answer": "text", "score": "number"}

    def _read(self, texts: tuple[str, ...]) -> Row:
        row = super()._read(texts)
        self._pipeline.masks(row.ids)  # a text without one is refused
        return row

    def _result(self, row: Row, logits: Any) -> dict[str, Any]:
        answer, score = self._pipeline.likeliest(row.ids, logits)
        return {"answer": answer, "score": score}


class Answers(Scorer):
    """The part of a context that answers a question."""

    reads = ("question", "context")
    gives: ClassVar[Mapping[str, Kind]] = {"answer": "text", "score": "number"}

    def score(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any]]:
        windows = [window for row in rows for window in row.ids]
        # A long context has many windows, and only so many texts as rows are read at a time.
        parts = (windows[start : start + len(rows)] for start in range(0, len(windows), len(rows)))
        logits = iter([found for part in parts for found in self._pipeline.logits(part)])
        return [self._result(row, [next(logits) for _ in row.ids]) for row in rows]

    def _read(self, texts: tuple[str, ...]) -> Row:
        windows = self._pipeline.windows(*texts)
        return Row(texts, windows, sum(len(window.ids) for window in windows))

    def _result(self, row: Row, logits: Any) -> dict[str, Any]:
        found = self._pipeline.answers(row.texts[1], row.ids, logits)
        return {"answer": found[0]["answer"], "score": found[0]["score"]} if found else {"answer": "", "score": 0.0}


class Embeds(Scorer):
    """The mean of a text's token states."""

    gives: ClassVar[Mapping[str, Kind]] = {"vector": "vector"}

    def score(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any]]:
        states = self._pipeline.states([row.ids for row in rows])
        return [{"vector": state.mean(0).tolist()} for state in states]


SCORERS: Mapping[Any, type[Scorer]] = {
    FillMask: Fills,
    TextClassification: Classifies,
    TokenClassification: Tags,
    QuestionAnswering: Answers,
    FeatureExtraction: Embeds,
}
OPTIONS = tuple(field.name for field in fields(WritingOptions))


def scorer_class(task: str) -> type[Scorer]:
    """Who scores for a task of the pipelines."""
    made = TASKS[task].make
    return SCORERS.get(made) or (Continues if task == "text-generation" else Writes)


def scorer(folder: Path | str, task: str | None = None, **options: Any) -> Scorer:
    """Who scores rows with the model of a folder; without a task it does what this kind of model is for.

    `options` are those of WritingOptions; None is the default. Raises ValueError for an option that the task has not.
    """
    name = task_named(task) if task is not None else task_of(folder)
    given = {key: value for key, value in options.items() if value is not None}
    chosen = scorer_class(name)
    if not issubclass(chosen, Writes):
        if given:
            raise ValueError(f"{next(iter(given))} is no option of {name}, which writes no text; leave it out")
        return chosen(pipeline(name, folder))
    checked = writing_options(**given)
    return chosen(pipeline(name, folder), checked)


def writing_options(**given: Any) -> WritingOptions:
    """Checked options; raises ValueError naming the one that is wrong."""
    if strange := sorted(given.keys() - set(OPTIONS)):
        raise ValueError(f"{strange[0]} is no option of what writes; there are {', '.join(OPTIONS)}")
    return WritingOptions(**given)


def task_of(folder: Path | str) -> str:
    """The task that the model of a folder is for."""
    kind = saved_task(folder)
    found = next((task for task, offered in TASKS.items() if kind in offered.models), None)
    if found is None:
        raise ModelError(f"{folder}: a {kind} model has no task of the pipelines")
    return found


def batches(rows: Sequence[Row], batch_size: int = BATCH_SIZE) -> Iterator[list[int]]:
    """Places of the rows that are scored together: those of like sizes, the longest first."""
    order = sorted(range(len(rows)), key=lambda place: (-rows[place].size, place))
    yield from (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def score_rows(
    scorer: Scorer,
    rows: Sequence[Row],
    numbers: Sequence[int],
    batch_size: int = BATCH_SIZE,
    after_batch: Callable[[int], None] = lambda num_rows: None,
) -> list[dict[str, Any]]:
    """What each row gets, in the rows' order; `after_batch` is told how many were scored at once."""
    results: list[dict[str, Any]] = [{}] * len(rows)
    for places in batches(rows, batch_size):
        found = scorer.score([rows[place] for place in places], [numbers[place] for place in places])
        for place, result in zip(places, found, strict=True):
            results[place] = result
        after_batch(len(places))
    return results


def _checked(name: str, text: object) -> str:
    """A cell that is a text with something in it."""
    if text is None or (isinstance(text, float) and text != text):
        raise Refused("empty", f"{name} is empty")
    if not isinstance(text, str):
        raise Refused("not_text", f"{name} is {type(text).__name__}, not text")
    if not text.strip():
        raise Refused("empty", f"{name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused("not_text", f"{name} holds half of a character pair (a lone surrogate)") from None
    return text
