"""Testing night after night: how much of alpha each look may spend, so that a whole horizon of looks keeps to it.

A test at alpha every night promotes by chance about once in 1 / alpha nights. Here the looks of a horizon share one
alpha by weights that sum to 1. The chance of any false promotion then stays below alpha however the nights depend on
each other (Boole's inequality), as they do where the same documents are looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass

# Weights fall with the number of the look to this power: docs/decisions.md says why.
DECAY = 0.5


@dataclass(frozen=True)
class Budget:
    """Where a line stands in its horizon."""

    look: int
    """Number of the next look, from 1."""
    level: float
    """What it may spend: it promotes with a p value below."""
    spent: float
    """What earlier looks of this horizon have used up."""
    left: float
    """Alpha but for that."""


def shares(horizon: int, decay: float = DECAY) -> list[float]:
    """Each look's share of alpha; they sum to 1."""
    weights = [number**-decay for number in range(1, horizon + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def budget(alpha: float, horizon: int, looks: int) -> Budget:
    """What the next look may spend after so many; a new horizon begins afresh."""
    place, own = looks % horizon, shares(horizon)
    spent = alpha * sum(own[:place])
    return Budget(place + 1, alpha * own[place], spent, alpha - spent)
