"""What `benchmarks/serving.py` has served: a Llama of 30.9 million weights in a model artifact's folder, and prompts.

The weights are random and rounded to bfloat16, so that files in bfloat16 and in float32 hold equal numbers. Their
sizes make attention look at single positions: a wrong order of rotary pairs changes every answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from llm_core.artifact import Draft
from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.tokenizer import Tokenizer

VOCAB_SIZE, CONTEXT = 8192, 1024
PROMPT_TOKENS = 128
SHAPE = Model(num_layers=7, width=512, num_heads=8, num_kv_heads=8, mlp_width=1408, context=CONTEXT)
SHARPNESS = 2.0  # of queries and keys: scores between positions are this squared times wider than by themselves


def write_model(folder: Path, texts: Sequence[str], shape: Model = SHAPE, vocab_size: int = VOCAB_SIZE) -> None:
    """Make the model artifact in `folder`, and `prompts.json` beside it: ids of the texts, none of them twice."""
    tokenizer = Tokenizer.train(texts, vocab_size)
    network = build(shape, tokenizer.vocab_size, tokenizer.end_id, seed=0)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() == 2:
                weight.copy_(_drawn(name, weight, draws))
        network.get_parameter("lm_head.weight")[_silent(tokenizer)] = 0
    with Draft(folder, kind="model", stage="train") as out:
        save_pretrained(network, out.path)
        tokenizer.save(out.path)
        out.publish({})
    ids = list(chain.from_iterable(ids.tolist() for ids in tokenizer.encode_documents(texts)))
    prompts = [ids[start : start + PROMPT_TOKENS] for start in range(0, len(ids) - PROMPT_TOKENS, PROMPT_TOKENS)]
    (folder.parent / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")


def _drawn(name: str, weight: Tensor, draws: torch.Generator) -> Tensor:
    """Random numbers that keep the size of what they are multiplied with."""
    scale = 1.0 if "embed" in name else weight.shape[1] ** -0.5
    sharpness = SHARPNESS if "q_proj" in name or "k_proj" in name else 1.0
    return (torch.randn(weight.shape, generator=draws) * scale * sharpness).bfloat16().float()


def _silent(tokenizer: Tokenizer) -> list[int]:
    """Ids that are no whole text: their logits are 0, never the largest, so that each token of an answer is shown."""
    spellings = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
    return [token_id for token_id, spelling in enumerate(spellings) if not spelling or not spelling.isascii()]
