"""A challenger beside the champion: whom it answers, what is seen of it, and when it has to go.

Looking again and again at growing evidence finds a difference sooner or later where there is none. So the evidence is
compared only when the challenger has given `min_requests` answers, and whenever they have doubled; the k-th comparison
may take alpha / 2^k of the risk, shared by all that is compared, so that all together stay under alpha.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llm_core.serving.evidence import COMPARISONS, FEWEST_ASKERS, KEPT, Answered, Comparison, Evidence, Pair, Side

if TYPE_CHECKING:
    from llm_core.serving.jobs import Answer
    from llm_core.serving.loaded import LoadedModel

logger = logging.getLogger(__name__)

SLOTS = 10_000
MOST_PERCENT = 50
"""As many askers of the champion are needed to compare with."""

Outcome = Literal["running", "passed", "reverted"]


class CanaryError(ValueError):
    """A setting that a challenger cannot be tried with; the message says what is allowed."""


@dataclass(frozen=True)
class Canary:
    """How a challenger is tried."""

    percent: float = 10.0
    """Share of the askers that it answers (with shadow: whose requests it gets copies of), in percent."""
    shadow: bool = False
    """The champion answers everyone, the challenger's answers are thrown away."""
    min_requests: int = 50
    """Answers of the challenger before it is compared for the first time."""
    looks: int = 3
    """It has passed when nothing is worse at this comparison; each needs twice the answers of the one before."""
    alpha: float = 0.05
    """Risk of reverting a challenger that is not worse, over all comparisons."""
    max_slowdown: float = 1.5
    """How many times the champion's its times may be."""
    max_loss: float = 0.01
    """How many bits per byte more it may need for users' texts."""
    challenge: str = ""
    """Hash of the ledger's entry that began it."""

    def __post_init__(self) -> None:
        """Raises CanaryError."""
        for name, is_right, allowed in (
            (
                "percent",
                0 < self.percent <= MOST_PERCENT,
                f"above 0 and at most {MOST_PERCENT}, so that as many compare",
            ),
            ("min_requests", self.min_requests >= 1, "at least 1"),
            ("looks", self.looks >= 1, "at least 1"),
            ("alpha", 0 < self.alpha < 0.5, "above 0 and below 0.5"),
            ("max_slowdown", self.max_slowdown >= 1, "at least 1"),
            ("max_loss", self.max_loss >= 0, "at least 0"),
        ):
            if not is_right:
                raise CanaryError(f"canary {name} {getattr(self, name)}: give a value {allowed}")


@dataclass(frozen=True)
class Verdict:
    """What the evidence says so far."""

    outcome: Outcome = "running"
    reason: str = "not compared yet"
    comparisons: tuple[Comparison, ...] = field(default=())


class Trial:
    """One challenger in service, from its loading to its verdict. Any thread may call it."""

    def __init__(
        self, model: LoadedModel, canary: Canary, concluded: Callable[[Trial, Verdict], None] = lambda *_: None
    ) -> None:
        self.name, self.canary = model.name, canary
        self.model: LoadedModel | None = model
        """None once it was reverted; answers that it has begun go on."""
        self.verdict = Verdict()
        self._salt = f"{model.version.line}\n{model.version.version}\n"
        self._concluded = concluded
        self._evidence = Evidence()
        self._num_looks = 0
        self._responses: OrderedDict[str, tuple[Side, str]] = OrderedDict()
        """Who wrote the newest responses, and for whom, until somebody says what they think of one."""
        self._lock = threading.Lock()

    def side(self, asker: str) -> Side | None:
        """The side on which an asker is compared, always the same; None for those who are not needed."""
        digest = hashlib.sha256((self._salt + asker).encode(errors="surrogatepass")).digest()
        slot, share = int.from_bytes(digest[:8]) % SLOTS, self.canary.percent * SLOTS / 100
        if slot < share:
            return "challenger"
        return "champion" if slot < 2 * share else None

    def takes(self, asker: str) -> bool:
        """Whether the challenger answers this asker."""
        return self.model is not None and not self.canary.shadow and self.side(asker) == "challenger"

    @property
    def share(self) -> float:
        """Share of the askers that it answers now, from 0 to 1."""
        return 0.0 if self.model is None or self.canary.shadow else self.canary.percent / 100

    def record(self, side: Side, asker: str, answer: Answer, reason: str) -> None:
        """Note an answer that ended for `reason`: stop, length, abort or error."""
        self._add(side, Answered.of(asker, answer, reason))

    def fail(self, side: Side, asker: str) -> None:
        """Note a request that this side could not take."""
        self._add(side, Answered(asker, is_failed=True))

    def wrote(self, response_id: str, side: Side, asker: str) -> None:
        """Remember whose a response is, for who rates it."""
        with self._lock:
            self._responses[response_id] = side, asker
            if len(self._responses) > KEPT:
                self._responses.popitem(last=False)

    def rate(self, response_id: str, value: float) -> None:
        """Note what somebody thinks of a response, if it is one that is compared; larger is better."""
        with self._lock:
            if response_id in self._responses:
                self._evidence.rate(*self._responses[response_id], value)

    def wants(self, text: str) -> bool:
        """Whether both versions should read this text; asked once for each."""
        with self._lock:
            return self.model is not None and self._evidence.is_new(text)

    def read(self, pair: Pair) -> None:
        """Note what both versions make of a text."""
        with self._lock:
            self._evidence.add_pair(pair)

    def counts(self) -> dict[Side, int]:
        """Answers seen of each side."""
        return dict(self._evidence.counts)

    def state(self) -> dict[str, Any]:
        """For /version, and for who waits for the verdict."""
        return {
            "challenger": self.name,
            **asdict(self.canary),
            "answers": self.counts(),
            "texts": self._evidence.num_pairs,
            "next_look": self._next_look,
            "verdict": self.verdict.outcome,
            "reason": self.verdict.reason,
            "comparisons": [asdict(comparison) for comparison in self.verdict.comparisons],
        }

    @property
    def _next_look(self) -> int:
        """The number of the challenger's answers at which it is compared again."""
        return self.canary.min_requests * 2**self._num_looks

    def _add(self, side: Side, answered: Answered) -> None:
        with self._lock:
            self._evidence.add(side, answered)
            if self.model is None or self._evidence.counts["challenger"] < self._next_look:
                return
            look, evidence = self._num_looks, self._evidence.copy()
            self._num_looks += 1
        # In a thread of its own: whoever adds an answer is busy with answering.
        threading.Thread(target=self._look, args=(look, evidence), name=f"look at {self.name}", daemon=True).start()

    def _look(self, look: int, evidence: Evidence) -> None:
        verdict = judge(self.canary, look, evidence)
        with self._lock:
            if self.model is None:
                return
            is_new, self.verdict = verdict.outcome != self.verdict.outcome, verdict
            if verdict.outcome == "reverted":
                self.model = None
        logger.info(
            "%s: %s after %d answers: %s", self.name, verdict.outcome, self.counts()["challenger"], verdict.reason
        )
        if is_new:
            self._concluded(self, verdict)


def judge(canary: Canary, look: int, evidence: Evidence) -> Verdict:
    """What the evidence says at the look of this number, counted from 0."""
    comparisons = tuple(evidence.compare(canary.max_slowdown, canary.max_loss))
    allowed = canary.alpha / 2 ** (look + 1) / len(COMPARISONS)
    if worse := [comparison for comparison in comparisons if comparison.p_value < allowed]:
        return Verdict("reverted", "worse: " + "; ".join(map(str, worse)), comparisons)
    fewest = min(evidence.num_askers("champion"), evidence.num_askers("challenger"))
    if look + 1 < canary.looks or fewest < FEWEST_ASKERS:
        return Verdict("running", f"nothing is worse after {look + 1} of {canary.looks} comparisons", comparisons)
    return Verdict("passed", "nothing is worse: " + "; ".join(map(str, comparisons)), comparisons)
