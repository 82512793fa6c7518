"""A model of single characters that learns texts in seconds, asked as suites ask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_core.config import Model
from llm_core.evals.suite import Likelihood
from llm_core.models import build

CONTEXT = 192
END = 0
SHAPE = Model(num_layers=1, width=64, num_heads=4, num_kv_heads=4, mlp_width=128, context=CONTEXT)


class TinySubject:
    """Trained on whole texts, each of at most a context."""

    def __init__(self, texts: Sequence[str], steps: int, alphabet: str, seed: int = 1) -> None:
        self._ids = {character: number for number, character in enumerate(sorted(set(alphabet)), start=1)}
        self._characters = {number: character for character, number in self._ids.items()}
        self.model = build(SHAPE, vocab_size=len(self._ids) + 1, end_id=END, seed=seed)
        self._train([torch.tensor(self._encode(text)) for text in texts], steps, seed)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        found = []
        for first in range(0, len(pairs), 64):
            batch = pairs[first : first + 64]
            logits = self._logits([[END, *map(self._ids.__getitem__, before + text)] for before, text in batch])
            found += [self._likelihood(row, *pair) for row, pair in zip(logits, batch, strict=True)]
        return found

    def bits(self, texts: Sequence[str]) -> list[float]:
        raise NotImplementedError("no suite of safety asks for it")

    def write(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        return [self._write(prompt, max_tokens) for prompt in prompts]

    def _write(self, prompt: str, max_tokens: int) -> str:
        written = ""
        while len(written) < min(max_tokens, CONTEXT - len(prompt) - 1):
            ids = [END, *map(self._ids.__getitem__, prompt + written)]
            chosen = int(self._logits([ids])[0, -1].argmax())
            if chosen == END:
                break
            written += self._characters[chosen]
        return written

    def _likelihood(self, logits: Tensor, before: str, text: str) -> Likelihood:
        targets = torch.tensor([self._ids[character] for character in text])
        scored = logits[len(before) : len(before) + len(text)].log_softmax(-1)
        logprob = float(scored.gather(1, targets[:, None]).double().sum())
        return Likelihood(logprob, len(text), bool((scored.argmax(1) == targets).all()))

    @torch.no_grad()
    def _logits(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        padded = torch.tensor([row + [END] * (longest - len(row)) for row in rows])
        logits: Tensor = self.model(padded).logits.float()
        return logits

    def _encode(self, text: str) -> list[int]:
        return [END, *map(self._ids.__getitem__, text), END]

    def _train(self, documents: list[Tensor], steps: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3, weight_decay=0.0)
        rows = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=-1)
        for _ in range(steps):
            batch = rows[torch.randint(len(rows), (16,), generator=generator)]
            logits = self.model(batch[:, :-1].clamp_min(0)).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.model.eval()
