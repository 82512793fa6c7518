"""A small corpus of one's own, taken through the data stages once: artifacts are never changed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean, Collect, Tokenize
from llm_core.config import Tokenizer as TokenizerConfig
from llm_core.inventory import Inventory, take_inventory
from tasks.clean import clean
from tasks.collect import collect
from tasks.tokenize import tokenize
from tasks.tokenizer import tokenizer

COLLECT = Collect(sources=("texts",), license="free")
CLEAN = Clean(test_share=0.3, validation_share=0.15)
TOKENIZER = TokenizerConfig(vocab_size=300)
VOCABULARY = "we the people of these states in order to form a more perfect union do ordain and establish"


def write_texts(folder: Path) -> None:
    """Thirty different documents, a damaged one, an empty one, an exact and a near copy, and a table of figures."""
    folder.mkdir()
    rng = random.Random(1)
    for number in range(30):
        (folder / f"doc{number:02d}.txt").write_text(" ".join(rng.choices(VOCABULARY.split(), k=200)) + " [Applause]\n")
    first = (folder / "doc00.txt").read_text()
    (folder / "copy.txt").write_text(first.replace("the", "THE"))
    (folder / "near.txt").write_text(first + "and nothing else")
    (folder / "table.txt").write_text("12 17 23 " * 60)
    (folder / "latin1.txt").write_bytes("café ".encode("latin-1") * 60)
    (folder / "empty.txt").write_text("\n")


@pytest.fixture
def own_inventory(tmp_path: Path) -> Inventory:
    """The corpus in a folder that a test may change."""
    write_texts(tmp_path / "texts")
    return take_inventory(COLLECT, tmp_path)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_texts(folder / "texts")
    return folder


@pytest.fixture(scope="session")
def inventory(base: Path) -> Inventory:
    return take_inventory(COLLECT, base)


@pytest.fixture(scope="session")
def collected(inventory: Inventory, base: Path) -> Artifact:
    with Draft(base / "out" / "collect", "documents", "collect") as out:
        return collect(COLLECT, inventory, out)


@pytest.fixture(scope="session")
def cleaned(collected: Artifact, base: Path) -> Artifact:
    with Draft(base / "out" / "clean", "documents", "clean") as out:
        return clean(CLEAN, collected, out)


@pytest.fixture(scope="session")
def vocabulary(cleaned: Artifact, base: Path) -> Artifact:
    with Draft(base / "out" / "tokenizer", "tokenizer", "tokenizer") as out:
        return tokenizer(TOKENIZER, cleaned, out)


@pytest.fixture(scope="session")
def tokens(cleaned: Artifact, vocabulary: Artifact, base: Path) -> Artifact:
    with Draft(base / "out" / "tokenize", "tokens", "tokenize") as out:
        return tokenize(Tokenize(batch_documents=7), cleaned, vocabulary, out)
