"""Further models that a recipe wants beside its own: scored on the same held-out documents, deciding nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_core.artifact import Artifact, ArtifactError
from tasks.champions import registered
from tasks.ledger import Entry, Ledger, LedgerError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reference:
    """A row beside the model's own score."""

    name: str
    bits_per_byte: float | None
    """None where there is nothing to score; `note` says why."""
    note: str = ""


def references(
    names: Sequence[str],
    ledger: Ledger,
    folder_of: Callable[[Entry], Path],
    score: Callable[[Path], pd.Series[float]],
    sizes: pd.Series[int],
) -> Iterator[Reference]:
    """One for each LINE (its champion) or LINE@VERSION; `sizes` are bytes of the documents by sha256.

    A model that is not there or cannot be scored is a row that says so: it must not stop a night.
    """
    for name in names:
        try:
            version = _version(ledger, name)
            folder = folder_of(version)
        except (LedgerError, ArtifactError, OSError, ValueError) as problem:
            yield Reference(name, None, str(problem).removeprefix(f"{name}: "))
        else:
            yield reference(f"{version.line}@{version.body['version']}", folder, score, sizes)


def reference(name: str, folder: Path, score: Callable[[Path], pd.Series[float]], sizes: pd.Series[int]) -> Reference:
    """The row of the model in this folder."""
    try:
        bits, parameters = score(folder), Artifact.peek(folder, "model").stats["parameters"]
    except (ArtifactError, OSError, ValueError) as problem:
        return Reference(name, None, str(problem))
    return Reference(name, float(bits.reindex(sizes.index).sum() / sizes.sum()), f"{parameters:,} parameters")


def _version(ledger: Ledger, name: str) -> Entry:
    line, _, number = name.partition("@")
    if number:
        return registered(ledger, line, int(number))
    champion = ledger.champion(line)
    if champion is None:
        raise LedgerError(f"has no champion yet; run the recipe whose line is {line}")
    return champion
