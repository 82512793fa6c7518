"""How the next token is drawn from a model's scores, for a batch of sequences that each have a random stream.

The order is that of `transformers`, and where both have a setting the result is the same: logit_bias,
repetition_penalty, presence_penalty and frequency_penalty (OpenAI's, which `transformers` lacks), min_tokens, then
temperature, top_k, top_p, min_p, then the draw. Dimensions: B sequences, V vocabulary, K tokens that the cuts look at,
L tokens of the longest prompt, N tokens generated so far.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

NEVER = float("-inf")
# Smaller temperatures choose the same tokens, and float32 can still divide by this one.
LEAST_TEMPERATURE = 1e-30
PENALTY_RANGE = "a number from -2 to 2 (0 changes nothing)"


class NotFinite(ValueError):
    """A model whose output is not a number any more; its weights are damaged or its training diverged."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the order is that of the module."""

    temperature: float = 1.0
    """Divides the scores; 0 always takes the likeliest token."""
    top_p: float = 1.0
    """Keep the likeliest tokens whose probabilities reach this sum (nucleus sampling, Holtzman et al. 2020)."""
    top_k: int = 0
    """Keep this many of the likeliest tokens; 0 keeps all."""
    seed: int = 0
    """Seed of this sequence's own random stream."""
    min_p: float = 0.0
    """Keep tokens at least this share as likely as the likeliest one (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Makes tokens of the prompt and the answer so far less likely (CTRL, Keskar et al. 2019); below 1 more likely."""
    presence_penalty: float = 0.0
    """Taken once from the score of every token that the answer holds already (OpenAI)."""
    frequency_penalty: float = 0.0
    """Taken from a token's score as often as the answer holds it already (OpenAI)."""
    min_tokens: int = 0
    """No stop id is drawn before this many tokens."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the scores of these ids."""

    def __post_init__(self) -> None:
        checks = (
            ("temperature", 0 <= self.temperature < math.inf, "a finite number of at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", _is_count(self.top_k), "at least 0 (0 keeps all tokens), a whole number"),
            ("min_p", 0 <= self.min_p <= 1, "at least 0 (0 keeps all tokens) and at most 1"),
            (
                "repetition_penalty",
                0 < self.repetition_penalty < math.inf,
                "finite and above 0 (1 changes nothing)",
            ),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, PENALTY_RANGE),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, PENALTY_RANGE),
            ("min_tokens", _is_count(self.min_tokens), "a whole number of at least 0"),
            ("seed", isinstance(self.seed, int), "a whole number"),
        )
        for name, is_allowed, allowed in checks:
            if not is_allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} must be {allowed}")
        for token_id, bias in self.logit_bias.items():
            if not (_is_count(token_id) and math.isfinite(bias)):
                raise ValueError(f"logit_bias {token_id!r}: {bias!r} must be a finite number for a token id")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


@dataclass(frozen=True)
class Token:
    """A generated token with the model's own log-probabilities (natural, before temperature and cuts)."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this position and their log-probabilities, best first."""


class RandomStreams:
    """A random stream for each sequence, which nothing else in the batch touches."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [np.random.Generator(np.random.SFC64(seed % 2**64)) for seed in seeds]

    @classmethod
    def together(cls, several: Sequence[RandomStreams]) -> RandomStreams:
        """The streams of several as one, which go on as they would alone."""
        made = cls([])
        made._streams = [stream for each in several for stream in each._streams]
        return made

    def select(self, rows: Sequence[int]) -> None:
        """Keep the streams of these sequences."""
        self._streams = [self._streams[row] for row in rows]

    def exponentials(self, width: int) -> np.ndarray:
        """So many exponential draws from each stream, (B, width)."""
        draws = np.empty((len(self._streams), width))
        for row, stream in zip(draws, self._streams, strict=True):
            stream.standard_exponential(out=row)
        return draws


class Penalties:
    """The settings that change scores by what was read and written so far; applied to logits or log-probabilities."""

    def __init__(self, sampling: Sampling, prompts: Sequence[Sequence[int]], stop_ids: Collection[int]) -> None:
        self._sampling = sampling
        self._banned = torch.tensor(sorted(stop_ids), dtype=torch.int64)
        self._biased = torch.tensor(list(sampling.logit_bias), dtype=torch.int64)
        self._bias = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32)
        longest = max(map(len, prompts))
        # A prompt is filled up with a token of its own, which is punished once however often it stands there.
        filled = [[*ids, *[ids[0]] * (longest - len(ids))] for ids in prompts]
        self._prompts = torch.tensor(filled, dtype=torch.int64)  # (B, L)
        self.changes_nothing = sampling.repetition_penalty == 1 and not (
            sampling.presence_penalty or sampling.frequency_penalty or sampling.min_tokens or sampling.logit_bias
        )

    def select(self, rows: Tensor) -> None:
        """Keep these sequences."""
        self._prompts = self._prompts[rows]

    def apply(self, scores: Tensor, written: Tensor) -> Tensor:
        """Scores (B, V) of the token behind `written` (B, N); those given are left as they are."""
        if self.changes_nothing:
            return scores
        changed, sampling = scores.clone(), self._sampling
        if len(self._biased):
            self._check_bias(scores.shape[-1])
            changed[:, self._biased] += self._bias
        if sampling.repetition_penalty != 1:
            seen = torch.cat((self._prompts, written), dim=1)
            found = changed.gather(1, seen)
            punished = torch.where(found < 0, found * sampling.repetition_penalty, found / sampling.repetition_penalty)
            changed.scatter_(1, seen, punished)
        if written.shape[1]:
            if sampling.presence_penalty:
                changed.scatter_(1, written, changed.gather(1, written) - sampling.presence_penalty)
            if sampling.frequency_penalty:  # a token is added for each time that it was written
                changed.scatter_add_(1, written, torch.full(written.shape, -sampling.frequency_penalty))
        if written.shape[1] < sampling.min_tokens:
            changed[:, self._banned] = NEVER
            is_dead = changed.amax(-1, keepdim=True) == NEVER  # a vocabulary of stop ids only
            changed = torch.where(is_dead, scores, changed)
        return changed

    def _check_bias(self, vocab_size: int) -> None:
        largest = int(self._biased.max())
        if largest >= vocab_size:
            raise ValueError(f"logit_bias {largest!r} must be below the vocabulary's size, {vocab_size}")


def check_finite(logits: Tensor) -> None:
    """Raise NotFinite for logits that no token can be chosen from."""
    # A sum finds every NaN and infinity at a tenth of the cost; numbers that overflow it are looked at one by one.
    if not math.isfinite(logits.sum()) and not logits.isfinite().all():
        raise NotFinite("the model's output holds NaN or infinity; train it again or serve another version")


def choose(scores: Tensor, sampling: Sampling, streams: RandomStreams) -> Tensor:
    """Draw one token of each sequence from scores (B, V): ids (B,)."""
    if sampling.temperature == 0:
        return torch.from_numpy(scores.numpy().argmax(-1))
    kept, ids = cut(scores, sampling)
    if ids is not None:
        # In the order of ids, so that two tokens that are all but equally likely cannot swap their random numbers.
        ids, order = ids.sort(dim=-1)
        kept = kept.gather(1, order)
    # The race of exponential clocks: token i comes first with probability p_i. Unlike a search in the cumulative
    # distribution, a last bit in the scores changes the winner only when two of them arrive at the same moment.
    winners = torch.from_numpy((kept.exp().numpy() / streams.exponentials(kept.shape[-1])).argmax(-1))
    return winners if ids is None else ids.gather(1, winners[:, None])[:, 0]


def cut(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """Temperature, top_k, top_p and min_p on scores (B, V): what is left of them (B, K), and whose they are.

    The best of each sequence is 0, and a token that was cut is -inf. With top_k these are the K likeliest tokens and
    their ids (B, K); without it, all V and no ids.
    """
    # Shifted first, so that a tiny temperature cannot overflow.
    scores = scores - scores.amax(-1, keepdim=True)
    if sampling.temperature != 1:
        scores = scores / max(sampling.temperature, LEAST_TEMPERATURE)
    ids: Tensor | None = None
    if 0 < sampling.top_k < scores.shape[-1]:
        scores, ids = scores.topk(sampling.top_k)
    if sampling.top_p < 1:
        scores = scores.masked_fill(scores < _least_of_nucleus(scores, sampling.top_p), NEVER)
    if sampling.min_p > 0:
        scores = scores.masked_fill(scores < math.log(sampling.min_p), NEVER)
    return scores, ids


def _least_of_nucleus(scores: Tensor, top_p: float) -> Tensor:
    """The lowest score (B, 1) among the likeliest tokens whose probabilities reach `top_p`."""
    # NumPy sorts floats with vector instructions, some twenty times as fast as torch does with their places.
    ordered = torch.from_numpy(np.sort(scores.numpy(), axis=-1)).flip(-1)
    shares = ordered.exp()
    reached = shares.cumsum(-1)
    # The token that crosses the sum stays, hence the sum before each token is compared.
    num_kept = (reached - shares < top_p * reached[:, -1:]).sum(-1, keepdim=True).clamp_min(1)
    return ordered.gather(1, num_kept - 1)
