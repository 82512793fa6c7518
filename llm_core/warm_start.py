"""Begin a training with the weights of a model that is there already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from llm_core.artifact import Artifact
from llm_core.config import Model
from llm_core.models import blank, load_pretrained
from llm_core.models.interface import Network
from llm_core.tokenizer import TOKENIZER
from llm_core.tokenizer.tokenizer import read_rust


class StartError(ValueError):
    """A model that the recipe's cannot start from; the message names both sides and what to do."""


def check_start(folder: Path, name: str, digest: str, tokenizer: Path, added: Sequence[str]) -> None:
    """Raise StartError unless the model in `folder` has this digest and speaks the tokens of the run.

    Those are the ones of `tokenizer` with the `added` names; control tokens may follow what the start knows.
    """
    artifact = Artifact.open(folder, "model")
    if artifact.digest != digest:
        raise StartError(f"{folder}: its digest is {artifact.digest}, train.start_sha256 is {digest}; run it again")
    theirs, ours = read_rust(folder / TOKENIZER), read_rust(tokenizer / TOKENIZER)
    behind = 1 + max(ours.get_vocab().values())
    known = {**ours.get_vocab(), **{token: behind + number for number, token in enumerate(added)}}
    if _learned(theirs) != _learned(ours) or not theirs.get_vocab().items() <= known.items():
        raise StartError(
            f"train.start: {name} speaks other tokens; set tokenizer.source to champion, "
            "or to folder with the start's own folder as tokenizer.folder"
        )


def started(folder: Path, name: str, architecture: Model, vocab_size: int, end_id: int, seed: int) -> Network:
    """The recipe's network with the weights of `folder`; ids that the start lacks get fresh rows, drawn from `seed`.

    What no recipe says of a network, such as the norms' epsilon, stays as it is there; dropout is the recipe's.
    """
    found = load_pretrained(folder)
    with torch.device("meta"):
        wanted = blank(architecture, vocab_size, end_id)
    _require_equal_shapes(wanted, found, architecture, name)
    dropout = {each.name: getattr(wanted.config, each.name) for each in fields(wanted.config) if _drops(each.name)}
    size = max(vocab_size, found.config.vocab_size)  # some have more rows than tokens
    network: Network = type(found)(replace(found.config, vocab_size=size, **dropout))
    network.initialize(seed)
    weights = found.state_dict()
    for key, tensor in network.state_dict().items():
        rows = tensor[: len(weights[key])] if tensor.dim() else tensor
        rows.copy_(weights[key])
    return network


def _require_equal_shapes(wanted: Network, found: Network, architecture: Model, name: str) -> None:
    if type(wanted) is not type(found):
        raise StartError(
            f"train.start: {name} is a {found.architecture}, model.family {architecture.family} makes "
            f"a {wanted.architecture}; set model.family to the start's"
        )
    ours, theirs = dict(_shape(wanted.config)), dict(_shape(found.config))
    differing = [f"model.{key} is {theirs[key]} there and {ours[key]} here" for key in ours if ours[key] != theirs[key]]
    if differing:
        raise StartError(f"train.start: {name} has another shape: {'; '.join(differing)}; set the recipe's keys to it")


def _shape(config: Any) -> Iterator[tuple[str, Any]]:
    """What recipes say of a network, by their keys."""
    variant = getattr(config, "variant", "")
    for key in Model.model_fields:
        if key == "qk_norm" and variant:
            yield key, variant == "qwen3"
        elif key == "attention_bias" and variant:
            yield key, config.attention_bias or variant == "qwen2"
        elif hasattr(config, key) and not _drops(key):
            yield key, getattr(config, key)


def _drops(name: str) -> bool:
    return name.endswith("dropout") and name != "head_dropout"


def _learned(rust: Any) -> Any:
    """Vocabulary and merges, in one form whatever library wrote the file."""
    model = json.loads(rust.to_str())["model"]
    return model.get("vocab"), model.get("merges")
