"""One learned tokenizer with enough merges to go wrong with."""

from __future__ import annotations

import pytest

from llm_core.tokenizer import Tokenizer
from tests.llm_core.tokenizer.texts import HOSTILE, speeches


@pytest.fixture(scope="session")
def learned() -> Tokenizer:
    return Tokenizer.train([*speeches(3), *HOSTILE], vocab_size=1500)
