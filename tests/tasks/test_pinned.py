"""What a recipe leaves to the champion, or to files, is fixed by sha256 before a run."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean, Evaluate, Recipe, SuiteSpec, Tokenizer
from llm_core.config.data import Toxicity
from llm_core.evals.examples import ExamplesError
from llm_core.tokenizer import TokenizerError, tokenizer_digest
from tasks.champions import promote
from tasks.ledger import Ledger
from tasks.pinned import keep_tokenizer, pinned
from tasks.tokenizer import tokenizer
from tasks.workspace import Workspace

NIGHTLY = Recipe(tokenizer=Tokenizer(source="champion"))


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(root=tmp_path, home=tmp_path / ".tidemill")


def _register(ws: Workspace, number: int, **more: str) -> None:
    body = {"version": number, "artifact": "a" * 64, "run": "r", **more}
    Ledger(ws.home).append("registered", "demo", f"demo:{number}", body)


def test_without_a_champion_the_vocabulary_is_learned(ws: Workspace) -> None:
    assert pinned(ws, NIGHTLY).tokenizer == Tokenizer(source="learn")
    _register(ws, 1, tokenizer="b" * 64)
    assert pinned(ws, NIGHTLY).tokenizer.source == "learn"  # registered is not champion


def test_the_champions_tokenizer_is_named_and_fixed_by_its_digest(ws: Workspace) -> None:
    for number in (1, 2):
        _register(ws, number, tokenizer=str(number) * 64)
    promote(Ledger(ws.home), "demo", 1, "first")
    assert pinned(ws, NIGHTLY).tokenizer == Tokenizer(source="champion", folder="demo@1", sha256="1" * 64)
    promote(Ledger(ws.home), "demo", 2, "better")
    assert pinned(ws, NIGHTLY).tokenizer.sha256 == "2" * 64
    assert pinned(ws, Recipe()) == Recipe()  # asked for by the recipe only


def test_a_champion_from_before_tokenizers_were_kept_leaves_it_to_learning(ws: Workspace) -> None:
    _register(ws, 1)
    promote(Ledger(ws.home), "demo", 1, "first")
    assert pinned(ws, NIGHTLY).tokenizer.source == "learn"


def test_the_stage_takes_the_kept_tokenizer_and_no_other(
    ws: Workspace, vocabulary: Artifact, cleaned: Artifact, tmp_path: Path
) -> None:
    digest = keep_tokenizer(ws, vocabulary.path)
    assert keep_tokenizer(ws, vocabulary.path) == digest
    cfg = Tokenizer(source="champion", folder="demo@1", sha256=digest)
    with Draft(tmp_path / "again", "tokenizer", "tokenizer", pins=ws.tokenizers) as out:
        kept = tokenizer(cfg, cleaned, out)
    assert kept.files["tokenizer.json"] == vocabulary.files["tokenizer.json"]
    (ws.tokenizers / digest / "tokenizer.json").write_text("{}")
    with (
        pytest.raises(TokenizerError, match=r"tokenizer\.sha256"),
        Draft(tmp_path / "other", "tokenizer", "tokenizer", pins=ws.tokenizers) as out,
    ):
        tokenizer(cfg, cleaned, out)


def test_a_folders_tokenizer_is_fixed_by_its_digest(ws: Workspace, vocabulary: Artifact, tmp_path: Path) -> None:
    shutil.copytree(vocabulary.path, tmp_path / "theirs")
    recipe = Recipe(tokenizer=Tokenizer(source="folder", folder="theirs"))
    first = pinned(ws, recipe)
    assert first.tokenizer.sha256 == tokenizer_digest(vocabulary.path)
    config = tmp_path / "theirs" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|endoftext|>", "<|im_end|>"))
    assert pinned(ws, recipe) != first


def test_what_a_recipe_has_pinned_already_stays(ws: Workspace, tmp_path: Path) -> None:
    _register(ws, 1, tokenizer="1" * 64)
    promote(Ledger(ws.home), "demo", 1, "first")
    (tmp_path / "words.txt").write_text("darn\n")
    words = Toxicity(words=("words.txt",), sha256="3" * 64)
    for held in (
        Tokenizer(source="champion", folder="demo@0", sha256="2" * 64),
        Tokenizer(source="folder", folder="gone", sha256="2" * 64),
    ):
        recipe = Recipe(tokenizer=held, clean=Clean(toxicity=words))
        assert pinned(ws, recipe) == recipe


def test_an_edited_word_list_changes_the_recipe(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("darn\n")
    recipe = Recipe(clean=Clean(toxicity=Toxicity(words=("words.txt",))))
    first = pinned(ws, recipe)
    assert first == pinned(ws, recipe) != recipe
    (tmp_path / "words.txt").write_text("darn\nheck\n")
    assert pinned(ws, recipe) != first


def test_tables_and_lists_of_suites_are_fixed_by_their_digests(ws: Workspace) -> None:
    (ws.root / "asked.jsonl").write_text('{"prompt": "a", "references": ["b"]}\n')
    (ws.root / "rated.txt").write_text("good\t1\n")
    suites = (
        SuiteSpec(kind="generation", examples="asked.jsonl"),
        SuiteSpec(kind="sentiment", words=("rated.txt",)),
        SuiteSpec(kind="bias"),
    )
    recipe = Recipe(evaluate=Evaluate(suites=suites))
    table, words, probes = pinned(ws, recipe).evaluate.suites
    assert table.examples_sha256 == hashlib.sha256((ws.root / "asked.jsonl").read_bytes()).hexdigest()
    assert len(words.words_sha256) == 64 and probes == suites[2]
    (ws.root / "rated.txt").write_text("good\t2\n")
    assert pinned(ws, recipe).evaluate.suites[1].words_sha256 != words.words_sha256
    (ws.root / "asked.jsonl").unlink()
    with pytest.raises(ExamplesError, match=r"asked\.jsonl: cannot be read"):
        pinned(ws, recipe)
