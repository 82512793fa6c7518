"""Spans are counted as seqeval counts them; it is installed beside the project, for the end-to-end test only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_core.evals.spans import Span, TagError, metrics, score_tags, spans

# Its last release is of 2020 and builds from source only: hence a fresh environment of its own.
ASK_SEQEVAL = """
import json, sys
from seqeval.metrics import f1_score, precision_score, recall_score, classification_report
wanted, given = json.load(sys.stdin)
scores = [measure(wanted, given) for measure in (f1_score, precision_score, recall_score)]
report = classification_report(wanted, given, output_dict=True)
print(json.dumps([*scores, report["PER"]["f1-score"], report["LOC"]["f1-score"]]))
"""
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SEQEVAL_SAID = [0.781124, 0.776447, 0.785859, 0.772467, 0.790698]
METRICS = metrics(["PER", "LOC"])


def _sequences() -> tuple[list[list[str]], list[list[str]]]:
    """Random tags, many of them broken sequences, and copies with some of them changed."""
    rng = np.random.default_rng(5)
    wanted = [[str(tag) for tag in rng.choice(TAGS, rng.integers(1, 12))] for _ in range(120)]
    given = [[tag if rng.random() < 0.8 else str(rng.choice(TAGS)) for tag in tags] for tags in wanted]
    return wanted, given


def _totals(rows: pd.DataFrame) -> list[float]:
    return [metric.of(rows) for metric in METRICS]


@pytest.mark.e2e
def test_numbers_are_those_of_seqeval(tmp_path: Path) -> None:
    wanted, given = _sequences()
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"
    subprocess.run([str(programs / "pip"), "install", "-q", "seqeval==1.2.2"], check=True)
    question = json.dumps([wanted, given])
    done = subprocess.run(
        [str(programs / "python"), "-c", ASK_SEQEVAL], input=question, check=True, capture_output=True, text=True
    )
    assert _totals(score_tags(wanted, given)) == pytest.approx(json.loads(done.stdout), abs=1e-4)


def test_numbers_are_those_seqeval_gave() -> None:
    assert _totals(score_tags(*_sequences())) == pytest.approx(SEQEVAL_SAID, abs=1e-4)


def test_a_resample_of_rows_is_that_of_those_sequences() -> None:
    wanted, given = _sequences()
    drawn = [0, 0, 3, 7, 7, 7]
    again = score_tags([wanted[i] for i in drawn], [given[i] for i in drawn])
    assert _totals(score_tags(wanted, given).iloc[drawn]) == pytest.approx(_totals(again))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O", [Span("PER", 0, 2)]),
        ("B-PER B-PER", [Span("PER", 0, 1), Span("PER", 1, 2)]),
        ("I-PER I-LOC", [Span("PER", 0, 1), Span("LOC", 1, 2)]),
        ("B-PER O I-PER", [Span("PER", 0, 1), Span("PER", 2, 3)]),
        ("B-X-Y I-X-Y", [Span("X-Y", 0, 2)]),
        ("O O", []),
    ],
)
def test_spans_begin_and_end_at_their_tags(tags: str, found: list[Span]) -> None:
    assert spans(tags.split()) == found


def test_nothing_found_scores_nothing() -> None:
    assert _totals(score_tags([["B-PER", "O"]], [["O", "O"]]))[0] == 0.0


@pytest.mark.parametrize("tag", ["PER", "E-PER", "B-", ""])
def test_tags_of_another_scheme_are_refused(tag: str) -> None:
    with pytest.raises(TagError, match="is not IOB2"):
        spans([tag])


def test_sequences_of_different_lengths_are_refused() -> None:
    with pytest.raises(TagError, match="1 tags given for 2"):
        score_tags([["O", "O"]], [["O"]])
