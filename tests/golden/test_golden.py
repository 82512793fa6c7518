"""Each family trains as it did: 30 steps come to the losses that were noted.

The tolerance leaves room for other CPUs, whose products add up in another order: weights that differ by 1e-7 of
themselves move these losses by less than 1e-6, and by 5e-5 where Muon rounds to bfloat16. What changes the training,
such as rates that are 5 % higher, moves them by more than the tolerance.
"""

from __future__ import annotations

import json

import pytest

from llm_core.models import FAMILIES
from tests.golden import make
from tests.golden.make import FOLDER, curve

TOLERANCE = 1e-3
ANEW = "if training was meant to change, write the curves anew: python -m tests.golden.make"


def distance(family: str) -> float:
    """The largest difference from the noted losses, as a share of each."""
    noted, now = json.loads((FOLDER / f"{family}.json").read_text(encoding="utf-8")), curve(family)
    assert {kind: len(losses) for kind, losses in now.items()} == {"train": 30, "validation": 3}
    pairs = [pair for kind in noted for pair in zip(noted[kind], now[kind], strict=True)]
    return max(abs(old - new) / old for old, new in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_comes_to_the_losses_that_were_noted(family: str) -> None:
    assert distance(family) < TOLERANCE, ANEW


@pytest.mark.parametrize("family", FAMILIES)
def test_rates_that_are_5_percent_higher_would_be_seen(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {name: 1.05 * getattr(make.CFG, name) for name in ("lr", "embedding_lr", "head_lr", "norm_lr")}
    monkeypatch.setattr(make, "CFG", make.CFG.model_copy(update=rates))
    assert distance(family) > TOLERANCE
