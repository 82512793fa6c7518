"""What the gate knows when it decides: the paired comparison, what it could have seen, guards, limits, every input."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_core.artifact import Artifact
from llm_core.config import Gate
from tasks.anchor import ANCHOR
from tasks.guards import EXAMPLE, SLICE, Guarded, check_guard
from tasks.ledger import Entry
from tasks.scores import DOCUMENTS

if TYPE_CHECKING:
    import pandas as pd

    from llm_core.evals.stats.bootstrap import PairedComparison
    from llm_core.evals.stats.spending import Budget

BASELINE = "unigram"
CHANGED_MOST = 20
"""Documents that are named because their scores changed most."""
RESAMPLES_PER_LEVEL = 20
"""So many resamples are expected beyond a p value that equals the night's level."""
HOPELESS = 10
"""A first p value so many times the level is not looked at more closely."""

ScoreOpponent = Callable[[Entry], "pd.Series[float]"]
"""Bits that the champion (by the entry that made it so) spends on each held-out document, indexed by sha256."""
Rows = tuple["pd.DataFrame | None", "pd.DataFrame | None"]
"""The scores of challenger and champion on the examples of a suite."""
OpponentRows = Callable[[Entry, str], "pd.DataFrame | None"]
"""The champion's scores on the examples of another suite, None where there are none."""
AnchorRows = Callable[[Entry], Rows]
"""Both sides' scores on what past champions did well, None where nothing is frozen yet."""


@dataclass(frozen=True)
class Opponent:
    """Whom a version is compared with: the champion, or without one the unigram baseline of its own report."""

    champion: Entry | None
    score: ScoreOpponent
    rows: OpponentRows
    anchor: Rows = (None, None)
    """The challenger's scores on the line's anchor, and its own."""

    @property
    def name(self) -> str:
        """LINE@VERSION, or the baseline."""
        return f"{self.champion.line}@{self.champion.body['version']}" if self.champion else BASELINE


@dataclass(frozen=True)
class Slice:
    """The documents of one folder of sources; gains in bits per byte."""

    slice: str
    documents: int
    gain: float
    verdict: str
    """won, lost, or even where chance alone could have shown as much."""


@dataclass(frozen=True)
class Limit:
    """A largest value, and what the version has, None where neither registration nor report says."""

    name: str
    limit: float
    value: float | None


@dataclass(frozen=True)
class Evidence:
    """A paired comparison on held-out documents; gains are in bits per byte, above 0 where the challenger is better."""

    opponent: str
    documents: int
    heldout: str
    """sha256 over the held-out documents' hashes."""
    challenger_bits_per_byte: float
    opponent_bits_per_byte: float
    gain: float
    low: float
    high: float
    """Ends of the bootstrap's interval of confidence 1 - 2 alpha."""
    mean_gain: float
    mean_low: float
    mean_high: float
    """The mean of the documents' own gains, each document counting the same, and its BCa interval of 95 %."""
    p_value: float
    """Chance of a gain this large where there is no more than min_gain, one-sided, by the signs of the differences."""
    bootstrap_p: float
    """The same by the bootstrap, which does not take differences for symmetric; it has to be below alpha."""
    resamples: int
    """Patterns of signs that were drawn, at most."""
    is_look: bool
    """Whether the test could have promoted; only then does it spend."""
    look: int
    """Number of this look in the line's horizon."""
    level: float
    """What it may spend: it promotes with a p value below."""
    alpha_spent: float
    """By the horizon's earlier looks."""
    alpha_left: float
    """Before this one."""
    error: float
    """Standard error of the gain."""
    detectable_gain: float
    """The least gain that this test finds with power 0.8."""
    power_at: float
    power: float
    """Chance that this test finds a gain of `power_at`: twice min_gain, or without one 1 % of the opponent's bits."""
    slices: list[Slice]
    guards: list[Guarded]
    limits: list[Limit]
    changed_most: list[dict[str, Any]]
    inputs: Mapping[str, str | None]
    """sha256 of everything that was compared, and of the recipe's rule."""


def compare(
    cfg: Gate, seed: int, version: Entry, report: Artifact, opponent: Opponent, budget: Budget, is_look: bool = True
) -> Evidence:
    """Score both sides on the report's documents and compare them in pairs."""
    from llm_core.evals.perplexity import bits_per_byte
    from llm_core.evals.stats.intervals import bca_interval
    from llm_core.evals.stats.power import detectable_gain, power, standard_error

    pairs = _pairs(report, opponent)
    arrays = [pairs[name].to_numpy() for name in ("bits", "theirs", "num_bytes")]
    result, p_value, resamples = _test(cfg, seed, arrays, budget.level)
    suites = _suites(cfg, report, pairs, opponent)
    error, theirs = standard_error(*arrays), bits_per_byte(pairs["theirs"], pairs["num_bytes"])
    mean_gain, mean_low, mean_high = bca_interval(pairs["gain"].to_numpy(), resamples=cfg.resamples, seed=seed)
    power_at = 2 * cfg.min_gain or 0.01 * theirs
    return Evidence(
        opponent=opponent.name,
        documents=result.documents,
        heldout=report.stats["heldout_digest"],
        challenger_bits_per_byte=bits_per_byte(pairs["bits"], pairs["num_bytes"]),
        opponent_bits_per_byte=theirs,
        gain=-result.difference,
        low=-result.high,
        high=-result.low,
        mean_gain=mean_gain,
        mean_low=mean_low,
        mean_high=mean_high,
        p_value=p_value,
        bootstrap_p=result.p_value,
        resamples=resamples,
        is_look=is_look and result.documents >= cfg.min_documents,
        look=budget.look,
        level=budget.level,
        alpha_spent=budget.spent,
        alpha_left=budget.left,
        error=error,
        detectable_gain=cfg.min_gain + detectable_gain(error, result.documents, budget.level),
        power_at=power_at,
        power=power(power_at - cfg.min_gain, error, result.documents, budget.level),
        slices=list(_slices(cfg, seed, pairs)),
        guards=_guarded(cfg, seed, suites),
        limits=limits(cfg, version, report),
        changed_most=_changed_most(pairs),
        inputs=_inputs(cfg, version, report, opponent.champion, suites),
    )


def _guarded(cfg: Gate, seed: int, suites: Mapping[str, Rows]) -> list[Guarded]:
    guards = (guard for guard in cfg.guards if guard.suite in suites)
    return [each for guard in guards for each in check_guard(cfg, seed, guard, *suites[guard.suite])]


def limits(cfg: Gate, version: Entry, report: Artifact) -> list[Limit]:
    """The recipe's limits, with what registration or report say of the version."""
    known = {**report.stats, **version.body}
    named = {
        "model_bytes": cfg.max_bytes,
        "milliseconds_per_token": cfg.max_milliseconds,
        "memory_bytes": cfg.max_memory_bytes,
    }
    return [Limit(name, limit, known.get(name)) for name, limit in named.items() if limit]


def _pairs(report: Artifact, opponent: Opponent) -> pd.DataFrame:
    """The report's documents with both sides' bits, each one's own gain and the folder that it is from."""
    import pandas as pd

    scores = pd.read_parquet(report.path / f"{DOCUMENTS}.parquet").set_index("sha256")
    champion = opponent.champion
    theirs = scores["unigram_bits"] if champion is None else opponent.score(champion).reindex(scores.index)
    if theirs.isna().any():
        raise ValueError(f"{report.path}: the opponent was not scored on every held-out document")
    gain = (theirs - scores["bits"]) / scores["num_bytes"]
    return scores.assign(theirs=theirs, gain=gain, **{SLICE: [_folder(source) for source in scores["source"]]})


def _folder(source: str) -> str:
    """Where a source file lies; a file that lies nowhere stands for itself."""
    return source.rpartition("/")[0] or source


def _test(cfg: Gate, seed: int, arrays: list[Any], level: float) -> tuple[PairedComparison, float, int]:
    """The bootstrap's interval, and the sign-flip p value by as many patterns of signs as this level needs."""
    from llm_core.evals.stats.bootstrap import paired_bootstrap
    from llm_core.evals.stats.permutation import sign_flip

    bits, theirs, num_bytes = arrays
    result = paired_bootstrap(
        *arrays, resamples=cfg.resamples, seed=seed, margin=cfg.min_gain, confidence=1 - 2 * cfg.alpha
    )
    for resamples in (cfg.resamples, max(cfg.resamples, math.ceil(RESAMPLES_PER_LEVEL / level))):
        p_value = sign_flip(bits - theirs + cfg.min_gain * num_bytes, resamples=resamples, seed=seed)
        if p_value > HOPELESS * max(level, 1 / cfg.resamples):
            break
    return result, p_value, resamples


def _slices(cfg: Gate, seed: int, pairs: pd.DataFrame) -> Iterator[Slice]:
    """Where the gain comes from: one-sided sign-flip tests at alpha, for information only."""
    from llm_core.evals.stats.permutation import sign_flip

    for name, rows in pairs.groupby(SLICE):
        differences = (rows["bits"] - rows["theirs"]).to_numpy()
        better, worse = (sign_flip(each, resamples=cfg.resamples, seed=seed) for each in (differences, -differences))
        verdict = "won" if better < cfg.alpha else "lost" if worse < cfg.alpha else "even"
        yield Slice(str(name), len(rows), float(-differences.sum() / rows["num_bytes"].sum()), verdict)


def _suites(cfg: Gate, report: Artifact, pairs: pd.DataFrame, opponent: Opponent) -> dict[str, Rows]:
    """Both sides' scores on the examples of each guarded suite; a first version has nothing to lose yet."""
    import pandas as pd

    if opponent.champion is None:
        return {}
    found: dict[str, Rows] = {}
    for suite in dict.fromkeys(guard.suite for guard in cfg.guards):
        if suite == ANCHOR:
            if opponent.anchor[1] is not None:
                found[suite] = opponent.anchor
        elif suite == DOCUMENTS:
            mine = pairs.rename_axis(EXAMPLE).reset_index()
            found[suite] = mine.drop(columns="theirs"), mine.assign(bits=mine["theirs"])
        else:
            place = report.path / f"{suite}.parquet"
            theirs = opponent.rows(opponent.champion, suite)
            found[suite] = pd.read_parquet(place) if place.exists() else None, theirs
    return found


def _changed_most(pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Documents by how much their bits per byte changed, the largest change first."""
    order = pairs["gain"].abs().sort_values(ascending=False, kind="stable").index[:CHANGED_MOST]
    rows = pairs.loc[order, ["source", "gain"]].itertuples()
    return [{"sha256": str(sha256), "source": str(source), "gain": gain} for sha256, source, gain in rows]


def _inputs(
    cfg: Gate, version: Entry, report: Artifact, champion: Entry | None, suites: Mapping[str, Rows]
) -> dict[str, str | None]:
    """Hashes; the report's digest covers all of the challenger's scores."""
    return {
        "version": version.hash,
        "model": version.body["artifact"],
        "report": report.digest,
        "heldout": report.stats["heldout_digest"],
        "champion": champion.hash if champion else None,
        "champion_model": champion.body["artifact"] if champion else None,
        **{f"champion's {suite}": _rows_digest(theirs) for suite, (_, theirs) in suites.items()},
        "gate": hashlib.sha256(json.dumps(cfg.rule()).encode()).hexdigest(),
    }


def _rows_digest(rows: pd.DataFrame | None) -> str | None:
    return None if rows is None else hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()
