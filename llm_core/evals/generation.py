"""Answers that are written, against references: exact match, token F1, BLEU, chrF and ROUGE.

An example is {"prompt": text, "references": [text, ...]}. BLEU and chrF are numbers of a whole corpus: a row keeps the
counts that they are made of, so that they are right for any resample of rows. Where there are several references, exact
match, F1 and ROUGE take the best one, BLEU and chrF do what sacrebleu does.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import zip_longest
from typing import Any

import pandas as pd

from llm_core.evals.rouge import f_measure, rouge_l, rouge_n
from llm_core.evals.suite import Example, Metric, Subject, Suite

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
SIGNATURE = "signature"
"""The column with sacrebleu's own account of how BLEU and chrF came about; the same in all rows."""


class MissingReference(ValueError):
    """Examples that answers cannot be compared with."""


def generation_suite(
    name: str = "generation", shots: Sequence[Example] = (), max_tokens: int = 64, stop: Sequence[str] = ("\n",)
) -> Suite:
    """A suite whose prompts begin with these solved examples; answers end at `stop`."""

    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        answers = subject.write([few_shot(shots, example["prompt"]) for example in examples], max_tokens, stop)
        return score_answers(answers, [example["references"] for example in examples])

    return Suite(name, METRICS, score)


def few_shot(shots: Sequence[Example], prompt: str) -> str:
    """The prompt behind solved examples, each with its first reference and an empty line behind it."""
    return "".join(f"{shot['prompt']} {shot['references'][0]}\n\n" for shot in shots) + prompt


def score_answers(answers: Sequence[str], references: Sequence[Sequence[str]]) -> pd.DataFrame:
    """A row an answer: the answer, its own scores, the counts of BLEU and chrF."""
    if any(isinstance(wanted, str) or not wanted for wanted in references):
        raise MissingReference('"references" must be a list of one or more texts; give each example one')
    answers = [answer.strip() for answer in answers]
    pairs = list(zip(answers, references, strict=True))
    columns: dict[str, Any] = {"answer": answers}
    for column, measure in MEASURES.items():
        columns[column] = [max(measure(answer, wanted) for wanted in wanteds) for answer, wanteds in pairs]
    return pd.DataFrame(columns).join(_corpus_counts(answers, references))


def normalize(text: str) -> str:
    """As SQuAD compares answers: lower case, without punctuation and articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    return float(normalize(answer) == normalize(reference))


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words as multisets; two answers without words are equal, as in SQuAD 2."""
    found, wanted = normalize(answer).split(), normalize(reference).split()
    if not found or not wanted:
        return float(found == wanted)
    return f_measure((Counter(found) & Counter(wanted)).total(), len(found), len(wanted))


@cache
def _sacrebleu(metric: str) -> Any:
    """BLEU or CHRF as its command computes it by default; tokenized text is nothing to warn of here."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(force=True) if metric == "bleu" else CHRF()


def _corpus_counts(answers: Sequence[str], references: Sequence[Sequence[str]]) -> pd.DataFrame:
    """The counts of each answer under METRIC_0, METRIC_1, ... and the signatures."""
    streams = list(zip_longest(*references))
    columns: dict[str, Any] = {}
    signatures = []
    for metric in ("bleu", "chrf"):
        library = _sacrebleu(metric)
        # What its own bootstrap is made of: a list of whole numbers for each answer, which add up.
        counts = library._extract_corpus_statistics(answers, streams) if answers else []
        columns |= {f"{metric}_{place}": column for place, column in enumerate(zip(*counts, strict=True))}
        signatures.append(f"{metric}|{library.get_signature()}" if answers else metric)
    return pd.DataFrame(columns | {SIGNATURE: " ".join(signatures)}, index=range(len(answers)))


def _corpus_score(metric: str, rows: pd.DataFrame) -> float:
    """BLEU or chrF, 0 to 100, of the sum of the counts."""
    columns = sorted((name for name in rows if re.fullmatch(rf"{metric}_\d+", str(name))), key=_place)
    counts = [int(rows[column].sum()) for column in columns]
    return float(_sacrebleu(metric)._compute_score_from_stats(counts).score)


def _place(column: Any) -> int:
    return int(str(column).rsplit("_", 1)[1])


MEASURES: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "rouge1": partial(rouge_n, n=1),
    "rouge2": partial(rouge_n, n=2),
    "rougeL": rouge_l,
}
METRICS = (
    *(Metric(column, column) for column in MEASURES),
    Metric("bleu", function=partial(_corpus_score, "bleu")),
    Metric("chrf", function=partial(_corpus_score, "chrf")),
)
