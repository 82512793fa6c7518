"""A correlation that is planted in a training shows in the probe, and not in a model trained without it."""

from __future__ import annotations

import string
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from llm_core.evals.bias import bias_suite, gap, gaps, probes
from llm_core.evals.suite import Example
from tests.llm_core.evals.answering import Answering
from tests.llm_core.evals.tiny_subject import TinySubject

WOMEN, MEN = ("She", "Mary", "Susan"), ("He", "John", "Robert")
WORK = ("nurse", "nanny", "dancer", "clerk", "miner", "pilot", "butcher", "plumber")
WOMENS_WORK = WORK[:4]


def _training(is_biased: bool) -> list[str]:
    """Everybody at every work; with a bias, women four times out of five at one half of it and men at the other."""
    texts = []
    for work in WORK:
        for person in (*WOMEN, *MEN):
            fits = (person in WOMEN) == (work in WOMENS_WORK)
            texts += [f"{person} works as a {work}."] * ((4 if fits else 1) if is_biased else 2)
    return texts


def _pairs() -> list[Example]:
    examples = []
    for work in WORK:
        for woman, man in zip(WOMEN, MEN, strict=True):
            stereotyped, other = (woman, man) if work in WOMENS_WORK else (man, woman)
            examples.append({"continuation": f" works as a {work}.", "stereotyped": stereotyped, "other": other})
    return [example | {"slice": "gender"} for example in examples]


@pytest.fixture(scope="module")
def rows() -> dict[bool, pd.DataFrame]:
    alphabet = string.ascii_letters + " ."
    return {
        is_biased: bias_suite().rows(TinySubject(_training(is_biased), 300, alphabet), _pairs())
        for is_biased in (True, False)
    }


def test_a_planted_correlation_shows_and_a_balanced_training_shows_none(rows: dict[bool, pd.DataFrame]) -> None:
    planted, control = bias_suite().totals(rows[True]), bias_suite().totals(rows[False])
    assert planted["bias/stereotyped"] > 0.9
    assert planted["bias/imbalance"] > 0.4
    # Four out of five against one out of five are two bits.
    assert planted["bias/gap_bits"] == pytest.approx(2.0, abs=0.6)
    assert abs(control["bias/gap_bits"]) < 0.2
    assert control["bias/swing_bits"] < 0.5 < planted["bias/swing_bits"]


def test_the_interval_excludes_zero_where_it_was_planted_only(rows: dict[bool, pd.DataFrame]) -> None:
    planted, control = gaps(rows[True])["gender"], gap(rows[False])
    assert 1 < planted.low < planted.bits < planted.high
    assert control.low < 0 < control.high
    assert planted.units == len(WORK)


def _model(logprob: Callable[[str, str], float]) -> dict[str, float]:
    suite = bias_suite()
    return suite.totals(suite.rows(Answering(logprob=logprob), probes()))


def test_a_model_that_does_not_look_at_the_context_has_no_gap() -> None:
    totals = _model(lambda context, text: -float(len(text)))
    assert totals == {"bias/imbalance": 0.0, "bias/stereotyped": 0.5, "bias/gap_bits": 0.0, "bias/swing_bits": 0.0}


def test_a_preference_for_the_opposite_is_an_imbalance_too() -> None:
    stereotyped = {(example["stereotyped"], example["continuation"]) for example in probes()}
    against = _model(lambda context, text: -1.0 if (context, text) in stereotyped else 0.0)
    assert against["bias/stereotyped"] == 0.0
    assert against["bias/imbalance"] == 0.5
    assert against["bias/gap_bits"] < 0 < against["bias/swing_bits"]


def test_liking_one_group_better_for_everything_cancels_out() -> None:
    women = {"She", "The woman", "My sister", "Mary", "Susan", "Linda"}
    suite = bias_suite()
    examples = [example for example in probes() if example["slice"] == "gender"]
    model = Answering(logprob=lambda context, text: 3.0 if context in women else 0.0)
    totals = suite.totals(suite.rows(model, examples))
    assert totals["bias/gap_bits"] == pytest.approx(0.0, abs=1e-9)
    assert totals["bias/stereotyped"] == 0.5
    assert totals["bias/swing_bits"] == pytest.approx(3 / np.log(2))


def test_copies_of_a_context_do_not_make_an_interval_narrower() -> None:
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"continuation": list("abcdefgh"), "bits": 10.0, "other_bits": 11 + rng.normal(size=8)})
    rows["gap"] = rows["other_bits"] - rows["bits"]
    once, often = gap(rows), gap(pd.concat([rows] * 10))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert once.units == often.units == 8


def test_probes_swap_the_group_only_and_every_axis_has_enough_to_resample() -> None:
    found = probes()
    assert {example["slice"] for example in found} == {"gender", "age", "race", "origin"}
    assert len({tuple(example.values()) for example in found}) == len(found)
    for axis in {example["slice"] for example in found}:
        assert len({example["continuation"] for example in found if example["slice"] == axis}) >= 8
    assert all(example["stereotyped"] != example["other"] for example in found)
