"""Begin a training with the weights of a model that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_core.artifact import Artifact
from llm_core.models import load_pretrained
from llm_core.models.interface import Network
from llm_core.tokenizer import TOKENIZER
from llm_core.tokenizer.tokenizer import read_rust

MAY_DIFFER = ("drop",)
"""In names of config.json: what changes the fit and not the network."""


class StartError(ValueError):
    """A model that the recipe's cannot start from; the message names both sides and what to do."""


def start_from(network: Network, folder: Path, name: str, digest: str, tokenizer: Path, added: Sequence[str]) -> None:
    """Give `network` the weights of the model in `folder`, which is called `name` and must have this digest.

    It has to be of the same architecture and sizes, and to speak the same tokens: `tokenizer` with the `added` names.
    """
    artifact = Artifact.open(folder, "model")
    if artifact.digest != digest:
        raise StartError(f"{folder}: its digest is {artifact.digest}, train.start_sha256 is {digest}; run it again")
    start = load_pretrained(folder)
    _require_equal_shapes(network, start, name)
    _require_equal_tokens(tokenizer, folder, name, added)
    network.load_state_dict(start.state_dict())


def _require_equal_shapes(network: Network, start: Network, name: str) -> None:
    if type(network) is not type(start):
        raise StartError(f"train.start: {name} is a {start.architecture}, the recipe makes a {network.architecture}")
    ours, theirs = _saved(network), _saved(start)
    differing = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
    if "vocab_size" in differing:
        raise StartError(_other_tokens(name))
    if differing:
        says = "; ".join(f"{key} is {theirs.get(key)} there and {ours.get(key)} here" for key in sorted(differing))
        raise StartError(
            f"train.start: {name} has another shape: {says} (names of config.json); set model's keys to it"
        )


def _saved(network: Network) -> dict[str, Any]:
    """The shape as config.json has it."""
    values: dict[str, Any] = network.config.to_json()
    return {key: value for key, value in values.items() if not any(word in key for word in MAY_DIFFER)}


def _require_equal_tokens(tokenizer: Path, start: Path, name: str, added: Sequence[str]) -> None:
    if _tokens(tokenizer, added) != _tokens(start, added):
        raise StartError(_other_tokens(name))


def _tokens(folder: Path, added: Sequence[str]) -> dict[str, Any]:
    vocabulary: dict[str, Any] = read_rust(folder / TOKENIZER).get_vocab()
    return {token: number for token, number in vocabulary.items() if token not in added}


def _other_tokens(name: str) -> str:
    return (
        f"train.start: {name} speaks other tokens; set tokenizer.source to champion, "
        "or to folder with the start's own folder as tokenizer.folder"
    )
