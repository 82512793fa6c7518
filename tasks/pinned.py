"""What a recipe leaves open is fixed by sha256 before a run: the champion's tokenizer, the content of word lists."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from llm_core.config import Recipe
from tasks.champions import registered
from tasks.ledger import Ledger
from tasks.workspace import Workspace

FILES = ("tokenizer.json", "tokenizer_config.json")


def keep_tokenizer(ws: Workspace, model: Path) -> str:
    """Keep the tokenizer of a model's folder; returns the digest that it is found by."""
    from llm_core.tokenizer import tokenizer_digest

    digest = tokenizer_digest(model)
    place = ws.tokenizers / digest
    if not place.exists():
        draft = place.with_name(f".{digest}.{os.getpid()}")
        draft.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(model / name, draft / name)
        os.rename(draft, place)
    return digest


def pinned(ws: Workspace, recipe: Recipe) -> Recipe:
    """The recipe with digests of all that it names and does not hold; what it holds already stays as it is."""
    return _with_word_lists(ws, _with_tokenizer(ws, recipe))


def _with_word_lists(ws: Workspace, recipe: Recipe) -> Recipe:
    lists = recipe.clean.toxicity
    if not lists.words:
        return recipe
    from llm_core.text.toxicity import words_sha256

    fixed = lists.model_copy(update={"sha256": words_sha256(lists.words, ws.root)})
    return recipe.model_copy(update={"clean": recipe.clean.model_copy(update={"toxicity": fixed})})


def _with_tokenizer(ws: Workspace, recipe: Recipe) -> Recipe:
    """The champion's tokenizer by name and digest, where the recipe asks for that.

    Without a champion, or with one that was registered before tokenizers were kept, the vocabulary is learned.
    """
    if recipe.tokenizer.source != "champion":
        return recipe
    ledger = Ledger(ws.home)
    champion = ledger.champion(recipe.register_.line)
    body = registered(ledger, champion.line, champion.body["version"]).body if champion else {}
    pin = {"source": "learn", "folder": "", "sha256": ""}
    if champion and "tokenizer" in body:
        name = f"{champion.line}@{champion.body['version']}"
        pin = {"source": "champion", "folder": name, "sha256": body["tokenizer"]}
    return recipe.model_copy(update={"tokenizer": recipe.tokenizer.model_copy(update=pin)})
