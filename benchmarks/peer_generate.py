"""transformers' generate for `benchmarks/serving.py`: `python -P peer_generate.py MODEL PROMPTS DTYPE`.

Runs in the peer's interpreter. A line on standard input is a JSON object: how many clients, the first prompt, how many
tokens, about how many requests. One call of `generate`, greedy, answers a prompt of each client. What comes back on
standard output, in a line, is for each call the seconds to the first token and to the end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria


class FirstToken(StoppingCriteria):
    """Notes when the first token was there; stops nothing."""

    def __init__(self) -> None:
        self.moment = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.moment = self.moment or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def generate(model: Any, prompts: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds to the first token and to the end of one batch."""
    first = FirstToken()
    began = time.perf_counter()
    with torch.inference_mode():
        written = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new_tokens,
            do_sample=False,
            stopping_criteria=[first],
        )
    ended = time.perf_counter()
    assert written.shape == (len(prompts), prompts.shape[1] + new_tokens)
    return first.moment - began, ended - began


def main() -> None:
    folder, place, precision = sys.argv[1:]
    torch.set_num_threads(1)
    prompts = torch.tensor(json.loads(Path(place).read_text(encoding="utf-8")))
    dtype = getattr(torch, precision)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    generate(model, prompts[:1], 8)
    print("ready", flush=True)
    for line in sys.stdin:
        todo = json.loads(line)
        batches = max(1, todo["requests"] // todo["clients"])
        starts = [todo["first_prompt"] + number * todo["clients"] for number in range(batches)]
        rows = [torch.arange(start, start + todo["clients"]) % len(prompts) for start in starts]
        times = [generate(model, prompts[row], todo["new_tokens"]) for row in rows]
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
