"""What a recipe leaves open is fixed by sha256 before a run: tokenizers, weights to start from, word lists, tables."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from llm_core.artifact import Artifact, ArtifactError
from llm_core.config import Recipe
from tasks.champions import registered
from tasks.ledger import Ledger
from tasks.workspace import Workspace

log = logging.getLogger(__name__)
FILES = ("tokenizer.json", "tokenizer_config.json")


def keep_tokenizer(ws: Workspace, model: Path) -> str:
    """Keep the tokenizer of a model's folder; returns the digest that it is found by."""
    digest = _digest(model)
    place = ws.tokenizers / digest
    if not place.exists():
        draft = place.with_name(f".{digest}.{os.getpid()}")
        draft.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(model / name, draft / name)
        os.rename(draft, place)
    return digest


def vocabulary_of(ws: Workspace, model: Artifact) -> Path:
    """The tokenizer that a model was trained with, which has no mask or sentinels: its objective adds them each time.

    Where the workspace has another one by now, the copy in the model's folder.
    """
    place = ws.out / "tokenizer"
    is_its_own = place.exists() and Artifact.peek(place, "tokenizer").digest == model.parents.get("tokenizer")
    return place if is_its_own else model.path


def pinned(ws: Workspace, recipe: Recipe) -> Recipe:
    """The recipe with digests of all that it names and does not hold; what it holds already stays as it is."""
    return _with_examples(ws, _with_word_lists(ws, _with_start(ws, _with_tokenizer(ws, recipe))))


def _with_examples(ws: Workspace, recipe: Recipe) -> Recipe:
    """The suites' tables and lists by their digests."""
    if not recipe.evaluate.suites:
        return recipe
    from llm_core.evals.examples import read_bytes
    from llm_core.text.toxicity import words_sha256

    fixed = []
    for spec in recipe.evaluate.suites:
        digests = {}
        if spec.examples and not spec.examples_sha256:
            digests["examples_sha256"] = hashlib.sha256(read_bytes(spec.examples, ws.root)).hexdigest()
        if spec.words and not spec.words_sha256:
            digests["words_sha256"] = words_sha256(spec.words, ws.root)
        fixed.append(spec.model_copy(update=digests))
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"suites": tuple(fixed)})})


def _with_word_lists(ws: Workspace, recipe: Recipe) -> Recipe:
    lists = recipe.clean.toxicity
    if not lists.words or lists.sha256:
        return recipe
    from llm_core.text.toxicity import words_sha256

    fixed = lists.model_copy(update={"sha256": words_sha256(lists.words, ws.root)})
    return recipe.model_copy(update={"clean": recipe.clean.model_copy(update={"toxicity": fixed})})


def _with_tokenizer(ws: Workspace, recipe: Recipe) -> Recipe:
    """The tokenizer of a folder by its digest, the champion's by name and digest.

    Without a champion, or with one that was registered before tokenizers were kept, the vocabulary is learned.
    """
    cfg = recipe.tokenizer
    if cfg.source == "learn" or cfg.sha256:
        return recipe
    pin = _champions(ws, recipe) if cfg.source == "champion" else {"sha256": _digest(ws.root / cfg.folder)}
    return recipe.model_copy(update={"tokenizer": cfg.model_copy(update=pin)})


def _champions(ws: Workspace, recipe: Recipe) -> dict[str, str]:
    ledger = Ledger(ws.home)
    champion = ledger.champion(recipe.register_.line)
    body = registered(ledger, champion.line, champion.body["version"]).body if champion else {}
    if champion is None or "tokenizer" not in body:
        return {"source": "learn", "folder": "", "sha256": ""}
    return {"folder": f"{champion.line}@{champion.body['version']}", "sha256": body["tokenizer"]}


def _with_start(ws: Workspace, recipe: Recipe) -> Recipe:
    """The weights that training starts from by name and digest, kept in the home; without a champion, random ones.

    Pinned ones stay what they are, and are kept again where the home has lost them.
    """
    cfg = recipe.train
    if cfg.start == "scratch" or (cfg.start_sha256 and (ws.starts / cfg.start_sha256).is_dir()):
        return recipe
    name = cfg.start_name
    if cfg.start == "champion" and not cfg.start_sha256:
        champion = Ledger(ws.home).champion(recipe.register_.line)
        if champion is None:
            log.warning("train.start: line %s has no champion yet; training starts from scratch", recipe.register_.line)
            return recipe.model_copy(update={"train": cfg.model_copy(update={"start": "scratch"})})
        name = f"{champion.line}@{champion.body['version']}"
    from tasks.fetch import fetch

    found = fetch(str(ws.root / name) if cfg.start == "folder" else name)
    if cfg.start_sha256 not in ("", found.digest):
        raise ArtifactError(
            f"train.start_sha256 {cfg.start_sha256}: {name} is {found.digest} now; bring those files back, or empty it"
        )
    _keep_start(ws, found.folder, found.digest)
    pin = {"start_name": name, "start_sha256": found.digest}
    return recipe.model_copy(update={"train": cfg.model_copy(update=pin)})


def _keep_start(ws: Workspace, folder: Path, digest: str) -> None:
    place = ws.starts / digest
    if place.exists():
        return
    draft = place.with_name(f".{digest}.{os.getpid()}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, draft)
    os.rename(draft, place)


def _digest(tokenizer: Path) -> str:
    from llm_core.tokenizer import tokenizer_digest

    return tokenizer_digest(tokenizer)
