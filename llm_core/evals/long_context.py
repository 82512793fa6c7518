"""Whether a model finds a sentence in a long text, wherever it stands: a needle at every depth.

An example is {"text": long text, "needle": sentence, "question": text, "answer": text, "depth": 0 to 1, "slice": text}.
`needles` makes them of one text for several depths and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from llm_core.evals.generation import normalize
from llm_core.evals.suite import SLICE, Example, Metric, Subject, Suite

METRICS = (Metric("found", "found"),)


def long_context_suite(name: str = "long_context", max_tokens: int = 32) -> Suite:
    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        answers = subject.write([prompt(example) for example in examples], max_tokens, ("\n",))
        found = [float(holds(answer, example["answer"])) for answer, example in zip(answers, examples, strict=True)]
        depths = [float(example["depth"]) for example in examples]
        lengths = [len(str(example["text"]).split()) for example in examples]
        return pd.DataFrame({"depth": depths, "num_words": lengths, "found": found})

    return Suite(name, METRICS, score)


def needles(
    text: str, needle: str, question: str, answer: str, depths: Sequence[float], num_words: Sequence[int]
) -> list[Example]:
    """Examples of the first words of a text, with the needle at each depth; the slice names both."""
    words = text.split()
    if len(words) < max(num_words):
        raise ValueError(f"a text of {len(words)} words cannot be {max(num_words)} long; give a longer one")
    if holds(" ".join(words[: max(num_words)]), answer):
        raise ValueError(f"the answer {answer!r} is in the text without its needle; choose another")
    asked = {"needle": needle, "question": question, "answer": answer}
    return [
        asked | {"text": " ".join(words[:length]), "depth": depth, SLICE: f"{length} words, depth {depth:g}"}
        for length in num_words
        for depth in depths
    ]


def prompt(example: Example) -> str:
    """The text with the needle behind the share `depth` of its words, then the question."""
    words, depth = str(example["text"]).split(), float(example["depth"])
    if not 0 <= depth <= 1:
        raise ValueError(f"depth {depth} must be between 0 (in front) and 1 (at the end)")
    place = round(depth * len(words))
    return f"{' '.join([*words[:place], example['needle'], *words[place:]])}\n\n{example['question']}"


def holds(text: str, answer: str) -> bool:
    """Whether the answer's words stand in the text, in their order."""
    return f" {normalize(answer)} " in f" {normalize(text)} "
