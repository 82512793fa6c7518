"""Model artifacts of a few thousand random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model
from llm_core.models import Task, build, save_pretrained
from llm_core.tokenizer import Tokenizer

TEXTS = ["The state of our union is strong, and fellow citizens know it.", "One, two and three."] * 8
SHAPE: dict[str, Any] = {"num_layers": 1, "width": 32, "num_heads": 2, "num_kv_heads": 2, "mlp_width": 32}


def publish(folder: Path, family: Any = "llama", task: Task | None = None, seed: int = 1) -> Artifact:
    """A model that reads 48 tokens."""
    tokenizer = Tokenizer.train(TEXTS, vocab_size=320)
    shape = Model(family=family, context=48, **SHAPE)
    with Draft(folder, kind="model", stage="train", recipe={"seed": seed}) as out:
        save_pretrained(build(shape, tokenizer.vocab_size, tokenizer.end_id, seed, task), out.path)
        tokenizer.save(out.path)
        return out.publish({})
