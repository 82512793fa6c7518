"""Questions whose answer is the likeliest of some texts behind them, raw and for its length.

An example is {"context": text, "choices": [text, ...], "answer": place of the right one}. `accuracy` and
`accuracy_norm` are acc and acc_norm of lm-evaluation-harness: the latter divides each log-probability by the characters
of its choice, so that long answers do not lose for their length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from llm_core.evals.suite import Example, Metric, Subject, Suite

METRICS = (Metric("accuracy", "correct"), Metric("accuracy_norm", "correct_norm"), Metric("margin", "margin"))


class ChoicesError(ValueError):
    """An example without a right choice."""


def multiple_choice_suite(name: str = "multiple_choice", shots: Sequence[Example] = ()) -> Suite:
    """A suite whose contexts begin with these solved examples."""
    solved = "".join(f"{shot['context']} {shot['choices'][place_of(shot)]}\n\n" for shot in shots)

    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        places = [place_of(example) for example in examples]
        pairs = [(solved + example["context"], f" {text}") for example in examples for text in example["choices"]]
        logprobs = iter([found.logprob for found in subject.likelihoods(pairs)])
        rows = [
            _row(np.array([next(logprobs) for _ in example["choices"]]), example["choices"], place)
            for example, place in zip(examples, places, strict=True)
        ]
        return pd.DataFrame(rows, columns=["chosen", "chosen_norm", "correct", "correct_norm", "margin"])

    return Suite(name, METRICS, score)


def place_of(example: Example) -> int:
    """The right choice's place; raises ChoicesError where there is none."""
    choices, answer = example["choices"], example["answer"]
    is_place = isinstance(answer, int | np.integer) and not isinstance(answer, bool) and 0 <= answer < len(choices)
    if not is_place or len(choices) < 2 or not all(choices):
        raise ChoicesError(
            f"choices {list(choices)} with the answer {answer!r}: give two texts or more, and the place of one, from 0"
        )
    return int(answer)


def _row(logprobs: np.ndarray, choices: Sequence[str], right: int) -> dict[str, float | int]:
    """The first of equally likely ones is chosen; `margin` is by how many nats the right one leads, below 0 if not."""
    by_length = logprobs / np.array([len(text) for text in choices])
    chosen, chosen_norm = int(logprobs.argmax()), int(by_length.argmax())
    return {
        "chosen": chosen,
        "chosen_norm": chosen_norm,
        "correct": float(chosen == right),
        "correct_norm": float(chosen_norm == right),
        "margin": float(logprobs[right] - np.delete(logprobs, right).max()),
    }
