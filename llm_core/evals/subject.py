"""A network of ours under evaluation: each context is read once, whatever stands behind it.

Pairs become ids as in lm-evaluation-harness's backend for transformers, so that its numbers are ours: blanks at a
context's end go to the continuation, whose ids are those of the whole behind as many as the context alone has, and
what is too long loses its beginning. Where that leaves a continuation no ids, since its first characters belong to the
context's last token, the harness fails; here it has the ids that it has alone. Dimensions: B contexts or continuations
of a pass, T their tokens, C width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_core.evals.perplexity import EvaluationError, Scoring, score_texts
from llm_core.evals.suite import Likelihood
from llm_core.generate import Sampling, generate_batch
from llm_core.models.interface import Network
from llm_core.tokenizer import StreamDecoder, Tokenizer

Ids = tuple[int, ...]
Progress = Callable[[int, int], None]
TOKENS_AT_ONCE = 1024
"""Of a pass, padding and copies of contexts among them: few, so that a CPU's cache holds what they pass through."""
WRITING_AT_ONCE = 32


def silent(done: int, total: int) -> None:
    """No progress bar."""


@dataclass(frozen=True)
class NetworkSubject:
    """A `Subject` that computes here."""

    network: Network
    tokenizer: Tokenizer
    scoring: Scoring
    begins_with_end: bool = True
    """Whether the end-of-text id stands in front of a context, as in front of every document that ours learned."""
    progress: Progress = silent

    @property
    def context(self) -> int:
        """Tokens that it reads at once."""
        config: Any = self.network.config
        return int(config.context)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """Of each (context, continuation) the continuation's; equal ones are computed once.

        Raises EvaluationError for a model that does not go on from a context, and for a continuation that is empty or
        longer than what the model reads at once.
        """
        if self.network.task != "causal_lm":
            raise EvaluationError(f"a model for {self.network.task} has no likelihood of a continuation")
        self.network.eval()
        return self._found(self._encoded(pairs))

    def rolling(self, texts: Sequence[str]) -> list[Likelihood]:
        """Of whole texts without their end, in windows that share no token, as lm-evaluation-harness cuts them."""
        windows = [list(_windows(ids, self.context, self.tokenizer.end_id)) for ids in self._ids(texts)]
        found = iter(self._found([window for some in windows for window in some]))
        return [_joined([next(found) for _ in some]) for some in windows]

    def _found(self, encoded: Sequence[tuple[Ids, Ids]]) -> list[Likelihood]:
        continuations: dict[Ids, dict[Ids, None]] = {}
        for before, behind in encoded:
            continuations.setdefault(before, {})[behind] = None
        found: dict[tuple[Ids, Ids], Likelihood] = {}
        total = sum(map(len, continuations.values()))
        for batch in _batches(continuations, self.context):
            is_alone = all(len(several) == 1 for _, several in batch)
            found |= self._read_whole(batch) if is_alone else self._read(batch)
            self.progress(len(found), total)
        return [found[pair] for pair in encoded]

    def bits(self, texts: Sequence[str]) -> list[float]:
        """Bits of each whole text as a document, its end included."""
        scored = score_texts(self.network, self.tokenizer, texts, self.scoring)
        return [float(value) for value in scored["bits"]]

    def write(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """How it goes on at temperature 0; of a prompt that leaves no room the beginning is left out."""
        room = max(1, self.context - max_tokens)
        front = (self.tokenizer.end_id,) if self.begins_with_end else ()
        ids = [(*front, *each)[-room:] or (self.tokenizer.end_id,) for each in self._ids(prompts)]
        written = [""] * len(ids)
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        for first in range(0, len(order), WRITING_AT_ONCE):
            places = order[first : first + WRITING_AT_ONCE]
            answers = generate_batch(
                self.network,
                [ids[place] for place in places],
                max_tokens=max_tokens,
                sampling=Sampling(temperature=0.0),
                stop_ids={self.tokenizer.end_id},
                stop=stop,
                new_text=lambda _: StreamDecoder(self.tokenizer),
            )
            for place, (answer,) in zip(places, answers, strict=True):
                written[place] = answer.text or ""
            self.progress(first + len(places), len(order))
        return written

    def _ids(self, texts: Sequence[str]) -> list[Ids]:
        return [tuple(ids) for ids in self.tokenizer.encode_batch(list(texts))]

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Ids of contexts, cut to what fits, and of continuations."""
        split = [_blanks_behind(*pair) for pair in pairs]
        wholes = self._ids([before + behind for before, behind in split])
        befores = self._ids([before for before, _ in split])
        behinds = [whole[len(before) :] for before, whole in zip(befores, wholes, strict=True)]
        swallowed = [place for place, behind in enumerate(behinds) if not behind]
        for place, ids in zip(swallowed, self._ids([split[place][1] for place in swallowed]), strict=True):
            behinds[place] = ids
        return [self._fitted(*both) for both in zip(befores, behinds, strict=True)]

    def _fitted(self, before: Ids, behind: Ids) -> tuple[Ids, Ids]:
        if not behind:
            raise EvaluationError("an empty continuation has no likelihood; leave it out of the examples")
        front = (self.tokenizer.end_id,) if self.begins_with_end or not before else ()
        room = self.context + 1 - len(behind)  # the last id is not read
        if room < 1:
            raise EvaluationError(f"a continuation of {len(behind)} tokens; the model reads {self.context} at once")
        return (*front, *before)[-room:], behind

    @torch.inference_mode()
    def _read_whole(self, batch: list[tuple[Ids, list[Ids]]]) -> dict[tuple[Ids, Ids], Likelihood]:
        """The same where only one continuation stands behind each context: both are read at once."""
        network: Any = self.network
        head = network.output_head()
        device = head.weight.device
        pairs = [(before, behind) for before, (behind,) in batch]
        texts = [before + behind[:-1] for before, behind in pairs]
        longest = max(map(len, texts))
        ids = torch.tensor([text + (0,) * (longest - len(text)) for text in texts], device=device)
        precision = self.scoring.precision
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            states = network.features(ids)  # (B, T, C); nothing looks at the padding behind
            kept = [
                row[len(before) - 1 : len(before) - 1 + len(behind)]
                for row, (before, behind) in zip(states, pairs, strict=True)
            ]
            logits = F.linear(torch.cat(kept), head.weight, head.bias)
        return dict(zip(pairs, _told(logits.float(), [behind for _, behind in pairs]), strict=True))

    @torch.inference_mode()
    def _read(self, batch: list[tuple[Ids, list[Ids]]]) -> dict[tuple[Ids, Ids], Likelihood]:
        """The likelihoods of what stands behind some contexts, which are read first, each once."""
        network: Any = self.network
        head = network.output_head()
        device = head.weight.device
        asked = [(row, before, behind) for row, (before, several) in enumerate(batch) for behind in several]
        longest = max(len(behind) for *_, behind in asked)
        ids, inputs = _padded_in_front([before for before, _ in batch], device)
        precision = self.scoring.precision
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            cache = network.new_cache(batch_size=len(batch), max_tokens=ids.shape[1] + max(longest - 1, 1))
            rows = torch.tensor([row for row, *_ in asked], device=device)
            states = network.features(ids, cache=cache, **inputs)[:, -1:][rows]  # (B, 1, C)
            if longest > 1:
                if len(rows) > len(batch) or len(batch) > 1:
                    cache.select(rows)
                rest = [behind[:-1] + (0,) * (longest - max(len(behind), 1)) for *_, behind in asked]
                states = torch.cat((states, network.features(torch.tensor(rest, device=device), cache=cache)), dim=1)
            kept = [states[place, : len(behind)] for place, (*_, behind) in enumerate(asked)]
            logits = F.linear(torch.cat(kept), head.weight, head.bias)  # of scored tokens alone
        pairs = [(before, behind) for _, before, behind in asked]
        return dict(zip(pairs, _told(logits.float(), [behind for _, behind in pairs]), strict=True))


def _told(logits: Tensor, continuations: Sequence[Ids]) -> Iterator[Likelihood]:
    """Those of some continuations by the logits (N, V) of all their tokens in a row."""
    targets = torch.tensor(list(chain.from_iterable(continuations)), device=logits.device, dtype=torch.int64)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    logprobs = (chosen - logits.logsumexp(1)).double().cpu()
    is_best = (logits.argmax(1) == targets).cpu()
    first = 0
    for behind in continuations:
        part = slice(first, first + len(behind))
        first = part.stop
        total = float(logprobs[part].sum())
        if math.isnan(total):
            raise EvaluationError("a likelihood is no number: the model's weights are damaged")
        yield Likelihood(total, len(behind), bool(is_best[part].all()))


def _windows(ids: Ids, context: int, end_id: int) -> Iterator[tuple[Ids, Ids]]:
    """What is read before and what is scored; the last window is as long as the others, and reads more."""
    for first in range(0, len(ids), context):
        behind = ids[first : first + context]
        start = first + len(behind) - context - 1
        yield (ids[start:first] if first else (end_id,)), behind


def _joined(parts: Sequence[Likelihood]) -> Likelihood:
    return Likelihood(
        sum(part.logprob for part in parts),
        sum(part.num_tokens for part in parts),
        all(part.is_greedy for part in parts),
    )


def _blanks_behind(before: str, behind: str) -> tuple[str, str]:
    kept = before.rstrip()
    return kept, before[len(kept) :] + behind


def _batches(continuations: Mapping[Ids, Iterable[Ids]], context: int) -> Iterator[list[tuple[Ids, list[Ids]]]]:
    """Contexts of about one length with what stands behind them, as many as go into a pass and into the context.

    Those with a single continuation come first, by the length of both.
    """
    several = {before: list(behind) for before, behind in continuations.items()}
    alone = [(before, behind) for before, behind in several.items() if len(behind) == 1]
    yield from _passes(sorted(alone, key=lambda item: (len(item[0]) + len(item[1][0]), item)), context)
    shared = [(before, behind) for before, behind in several.items() if len(behind) > 1]
    yield from _passes(sorted(shared, key=lambda item: (len(item[0]), item)), context)


def _passes(ordered: list[tuple[Ids, list[Ids]]], context: int) -> Iterator[list[tuple[Ids, list[Ids]]]]:
    batch: list[tuple[Ids, list[Ids]]] = []
    rows = longest = widest = 0
    for before, several in ordered:
        for first in range(0, len(several), most := max(1, TOKENS_AT_ONCE // (len(before) + 1))):
            part = several[first : first + most]
            rows, longest = rows + len(part), max(longest, *map(len, part))
            widest = max(widest, len(before))
            if batch and (rows * (widest + longest) > TOKENS_AT_ONCE or widest + longest - 1 > context):
                yield batch
                batch, rows, longest, widest = [], len(part), max(map(len, part)), len(before)
            batch.append((before, part))
    if batch:
        yield batch


def _padded_in_front(texts: Sequence[Ids], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Ids (B, T), and the segments that mark the padding where there is any."""
    longest = max(map(len, texts))
    ids = torch.tensor([(0,) * (longest - len(text)) + text for text in texts], device=device)
    if all(len(text) == longest for text in texts):
        return ids, {}
    marks = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts], device=device)
    return ids, {"segments": marks}
