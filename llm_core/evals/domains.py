"""Questions with choices, sliced by field: law, medicine and education of a table like MMLU's.

An example is {"question": text, "choices": [text, ...], "answer": place of the right one, "subject": text}. A model's
answer is the likeliest letter. A subject belongs to a field by its name; `in_fields` leaves out what belongs to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from llm_core.evals.suite import SLICE, Example, Metric, Subject, Suite

FIELDS = {
    "law": ("law", "jurisprudence", "legal"),
    "medicine": ("medic", "clinical", "anatomy", "nutrition", "virology", "health", "aging"),
    "education": ("education", "pedagogy", "teaching"),
}
"""What in a subject's name makes it one of a field, in this order."""
LETTERS = "ABCDEFGHIJ"


def domains_suite(name: str = "domains", fields: Sequence[str] = tuple(FIELDS)) -> Suite:
    """Accuracy over all rows and within each field; examples come from `in_fields`."""

    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        pairs = [(prompt(example), f" {letter}") for example in examples for letter in letters(example)]
        found = iter(subject.likelihoods(pairs))
        chosen = [_best([next(found).logprob for _ in letters(example)]) for example in examples]
        correct = [float(place == example["answer"]) for place, example in zip(chosen, examples, strict=True)]
        columns = {f"is_{field}": [float(example.get(SLICE) == field) for example in examples] for field in fields}
        rows = pd.DataFrame({"chosen": chosen, "correct": correct} | columns)
        return rows.assign(**{f"correct_{field}": rows["correct"] * rows[f"is_{field}"] for field in fields})

    own = (Metric(f"accuracy_{field}", f"correct_{field}", over=f"is_{field}") for field in fields)
    return Suite(name, (Metric("accuracy", "correct"), *own), score)


def in_fields(examples: Iterable[Example]) -> list[Example]:
    """The examples whose subject is of a field, with the field as their slice."""
    named = [(example, field_of(str(example["subject"]))) for example in examples]
    return [{**example, SLICE: field} for example, field in named if field]


def field_of(subject: str) -> str | None:
    return next((field for field, parts in FIELDS.items() if any(part in subject.lower() for part in parts)), None)


def prompt(example: Example) -> str:
    choices = [f"{letter}. {text}" for letter, text in zip(letters(example), example["choices"], strict=True)]
    return "\n".join([str(example["question"]), *choices, "Answer:"])


def letters(example: Example) -> str:
    """A letter for each choice."""
    count, answer = len(example["choices"]), example["answer"]
    if not 2 <= count <= len(LETTERS) or answer not in range(count):
        raise ValueError(
            f"{count} choices with the answer {answer}: give 2 to {len(LETTERS)}, and the place of one, from 0"
        )
    return LETTERS[:count]


def _best(logprobs: list[float]) -> int:
    return max(range(len(logprobs)), key=logprobs.__getitem__)
