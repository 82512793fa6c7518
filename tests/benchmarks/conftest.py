"""A small checkpoint of the kind that `benchmarks/serving.py` has served."""

from __future__ import annotations

import pytest

from benchmarks.serving_model import write_model
from benchmarks.serving_sides import Files
from llm_core.config import Model

TEXTS = [f"Fellow citizens of {1790 + year}, the union is strong, number {year} of many." for year in range(150)]
SHAPE = Model(num_layers=2, width=32, num_heads=4, num_kv_heads=2, mlp_width=64, context=256)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("serving"))
    write_model(files.model, TEXTS, SHAPE, vocab_size=320)
    return files
