"""What is seen of two versions that answer side by side, and whether one of them is worse.

The unit of every comparison is an asker: who asks often, or always long questions, counts once. Askers are put on a
side by chance, so that without a difference between the versions every split of them is equally likely.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from llm_core.serving.jobs import Answer

Side = Literal["champion", "challenger"]
What = Literal["failures", "first token", "each token", "ratings", "bits per byte"]
COMPARISONS: tuple[What, ...] = ("failures", "first token", "each token", "ratings", "bits per byte")
FEWEST_ASKERS = 10
"""With fewer on either side ranks say nothing: their usual approximation is wrong there, most of all with ties."""
KEPT = 10_000
"""Newest answers, ratings and texts that are remembered."""


@dataclass(frozen=True)
class Answered:
    """One answer's outcome."""

    asker: str
    is_failed: bool
    """It ended with an error, or its client left before anything came."""
    first: float | None = None
    """Seconds that its model worked until the first token, of an answer that was read to its end.

    What the other version does meanwhile is left out: they take turns, so that a slow one makes both slow.
    """
    each: float | None = None
    """The same for each token behind it."""

    @classmethod
    def of(cls, asker: str, answer: Answer, reason: str) -> Answered:
        """What an answer that ended for `reason` (stop, length, abort or error) tells."""
        times = answer.times
        if reason not in ("stop", "length"):
            return cls(asker, is_failed=reason == "error" or not times.first_token)
        if not times.first_token:
            return cls(asker, is_failed=False)
        more = answer.num_tokens - 1
        each = (times.worked_ended - times.worked_first_token) / more if more > 0 else None
        return cls(asker, False, times.worked_first_token - times.worked_before, each)


@dataclass(frozen=True)
class Pair:
    """A text that both versions read, in bits per byte."""

    asker: str
    champion: float
    challenger: float


@dataclass(frozen=True)
class Comparison:
    """One thing in which the challenger may be worse."""

    what: What
    champion: float
    challenger: float
    """The sides' typical values."""
    num_champion: int
    num_challenger: int
    """Askers on each side; of pairs, those whose texts both have read."""
    p_value: float
    """Chance of such a difference where the challenger is not worse (by more than it may be), one-sided."""

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.challenger:.4g} against the champion's {self.champion:.4g} "
            f"({self.num_challenger} askers against {self.num_champion}, p {self.p_value:.2g})"
        )


class Evidence:
    """What was seen of both sides so far."""

    def __init__(self) -> None:
        self.answers: dict[Side, deque[Answered]] = {"champion": deque(maxlen=KEPT), "challenger": deque(maxlen=KEPT)}
        self.counts: dict[Side, int] = {"champion": 0, "challenger": 0}
        self._ratings: dict[Side, deque[tuple[str, float]]] = {
            "champion": deque(maxlen=KEPT),
            "challenger": deque(maxlen=KEPT),
        }
        self._pairs: deque[Pair] = deque(maxlen=KEPT)
        self._texts: OrderedDict[bytes, None] = OrderedDict()

    @property
    def num_pairs(self) -> int:
        """Texts that both sides have read."""
        return len(self._pairs)

    def add(self, side: Side, answered: Answered) -> None:
        """Note an answer."""
        self.answers[side].append(answered)
        self.counts[side] += 1

    def rate(self, side: Side, asker: str, value: float) -> None:
        """Note what somebody thinks of an answer."""
        self._ratings[side].append((asker, value))

    def add_pair(self, pair: Pair) -> None:
        """Note what both sides make of a text."""
        self._pairs.append(pair)

    def is_new(self, text: str) -> bool:
        """Whether a text was not here before: the same one again would tell nothing."""
        digest = hashlib.sha256(text.encode()).digest()
        if digest in self._texts:
            return False
        self._texts[digest] = None
        if len(self._texts) > KEPT:
            self._texts.popitem(last=False)
        return True

    def num_askers(self, side: Side) -> int:
        """Different askers of a side."""
        return len({answered.asker for answered in self.answers[side]})

    def copy(self) -> Evidence:
        """What there is to compare now."""
        found = Evidence()
        found.answers = {side: each.copy() for side, each in self.answers.items()}
        found._ratings = {side: each.copy() for side, each in self._ratings.items()}
        found._pairs = self._pairs.copy()
        return found

    def compare(self, max_slowdown: float, max_loss: float) -> list[Comparison]:
        """All comparisons that there is something to compare for."""
        found = (
            self._failures(),
            self._times("first token", max_slowdown),
            self._times("each token", max_slowdown),
            self._rated(),
            self._read(max_loss),
        )
        return [comparison for comparison in found if comparison is not None]

    def _failures(self) -> Comparison | None:
        """Fisher's exact test on the askers that saw a failure."""
        from scipy.stats import fisher_exact

        saw = [
            _by_asker((each.asker, float(each.is_failed)) for each in self.answers[side]) > 0
            for side in ("champion", "challenger")
        ]
        if not all(map(len, saw)):
            return None
        table = [[each.sum(), (~each).sum()] for each in reversed(saw)]
        p_value = float(fisher_exact(table, alternative="greater").pvalue)
        return Comparison("failures", float(saw[0].mean()), float(saw[1].mean()), len(saw[0]), len(saw[1]), p_value)

    def _times(self, what: Literal["first token", "each token"], max_slowdown: float) -> Comparison | None:
        """Whether the challenger's times are longer than the champion's, taken `max_slowdown` times."""
        name = "first" if what == "first token" else "each"
        sides = [
            _by_asker((each.asker, value) for each in self.answers[side] if (value := getattr(each, name)) is not None)
            for side in ("champion", "challenger")
        ]
        return _greater(what, sides[0], sides[1], sides[0] * max_slowdown, sides[1])

    def _rated(self) -> Comparison | None:
        sides = [_by_asker(self._ratings[side]) for side in ("champion", "challenger")]
        return _greater("ratings", sides[0], sides[1], sides[1], sides[0])

    def _read(self, max_loss: float) -> Comparison | None:
        """Wilcoxon's signed ranks on the texts that both have read, those of an asker together."""
        from scipy.stats import wilcoxon

        champion = _by_asker((pair.asker, pair.champion) for pair in self._pairs)
        challenger = _by_asker((pair.asker, pair.challenger) for pair in self._pairs)
        if len(champion) < FEWEST_ASKERS:
            return None
        losses = challenger - champion - max_loss
        p_value = float(wilcoxon(losses, alternative="greater").pvalue) if losses.any() else 1.0
        count = len(losses)
        means = float(champion.mean()), float(challenger.mean())
        return Comparison("bits per byte", *means, count, count, _chance(p_value))


def _greater(
    what: What, champion: np.ndarray, challenger: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> Comparison | None:
    """Mann and Whitney's test of whether `upper` is greater than `lower`; the sides' own values are told."""
    from scipy.stats import mannwhitneyu

    if min(len(champion), len(challenger)) < FEWEST_ASKERS:
        return None
    p_value = float(mannwhitneyu(upper, lower, alternative="greater").pvalue)
    medians = float(np.median(champion)), float(np.median(challenger))
    return Comparison(what, *medians, len(champion), len(challenger), _chance(p_value))


def _by_asker(values: Iterable[tuple[str, float]]) -> np.ndarray:
    """Each asker's mean, in the order of their coming."""
    found: dict[str, list[float]] = defaultdict(list)
    for asker, value in values:
        found[asker].append(value)
    return np.array([sum(each) / len(each) for each in found.values()])


def _chance(p_value: float) -> float:
    """Without any difference between any two values there is no chance to tell."""
    return 1.0 if math.isnan(p_value) else p_value
