"""Versions that must not serve: whatever is wrong with them, the one before goes on and the reason is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_core.artifact import Artifact, Draft
from llm_core.models import load_pretrained
from llm_core.pipeline.codec import Codec
from llm_core.serving.follower import Follower
from llm_core.serving.golden import TAG, Golden
from llm_core.serving.hosting import Line
from llm_core.serving.registry import RegisteredVersion
from llm_core.tokenizer import Tokenizer
from tests.llm_core.serving.conftest import MemoryRegistry, Publish

Change = Callable[[Path], None]
CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS = "model.safetensors"


def flip_a_byte(name: str) -> Change:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def set_key(name: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**known, **values}))

    return change


def set_weight(name: str, value: float) -> Change:
    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        weights[name].view(-1)[0] = value
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def write(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def pickle_instead(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def other_vocabulary(vocab_size: int) -> Change:
    texts = [" ".join(f"{word}{number % 97}" for number in range(500)) for word in ("zebra", "quokka", "heron", "lynx")]
    return lambda folder: Tokenizer.train(texts, vocab_size).save(folder)


# Files that are not what the manifest says.
DAMAGED: dict[str, tuple[Change, str]] = {
    "a byte of the weights": (flip_a_byte(WEIGHTS), "sha256 is not the manifest's"),
    "a byte of the config": (flip_a_byte(CONFIG), "sha256 is not the manifest's"),
    "a byte of the tokenizer": (flip_a_byte(TOKENIZER), "sha256 is not the manifest's"),
    "no weights": (remove(WEIGHTS), "is missing"),
    "no config": (remove(CONFIG), "is missing"),
    "no tokenizer": (remove(TOKENIZER), "is missing"),
    "no manifest": (remove("manifest.json"), "manifest.json"),
    "a manifest that is not JSON": (write("manifest.json", b"{"), "manifest.json"),
}
# Whole artifacts, registered with a digest that fits, which still are no model that may serve.
WRONG: dict[str, tuple[Change, str]] = {
    "more tokens than the model has": (other_vocabulary(400), "the model only"),
    "another vocabulary of the same size": (other_vocabulary(300), "another vocabulary"),
    "a weight that is NaN": (set_weight("model.layers.0.mlp.down_proj.weight", float("nan")), "golden value"),
    "a norm that is infinite": (set_weight("model.norm.weight", float("inf")), "golden value"),
    "other weights": (set_weight("model.norm.weight", 3.0), "golden value"),
    "cut weights": (cut_weights, "not a safetensors file"),
    "no safetensors": (write(WEIGHTS, b"not weights at all"), "not a safetensors file"),
    "a pickle": (pickle_instead, "never opened"),
    "an unknown architecture": (set_key(CONFIG, architectures=["GPT5ForCausalLM"]), "is not supported"),
    "another shape": (set_key(CONFIG, intermediate_size=64), "config.json says"),
    "a setting that would be ignored": (set_key(CONFIG, hidden_act="tanh"), "hidden_act"),
    "more than the machine holds": (set_key(CONFIG, vocab_size=10**12), "memory"),
    "a chat template that is no text": (set_key(TOKENIZER_CONFIG, chat_template=[1]), "chat_template"),
    "no tokenizer at all": (write(TOKENIZER, b"{}"), "not a tokenizer"),
}


@pytest.fixture
def line(registry: MemoryRegistry, publish: Publish, tmp_path: Path) -> Line:
    """A line whose good version serves."""
    made = Line("tiny")
    registry.promote(registered(publish(tmp_path / "good", 1), "1"), tmp_path / "good")
    Follower(made, registry, lambda version: None).check()
    assert made.champion is not None and made.champion.name == "tiny@1"
    return made


def registered(artifact: Artifact, number: str, tag: str | None = None) -> RegisteredVersion:
    tags = {TAG: tag or golden_tag(artifact.path)}
    return RegisteredVersion("tiny", number, artifact=artifact.digest, key=artifact.key, tags=tags)


def golden_tag(folder: Path) -> str:
    return Golden.of(load_pretrained(folder), Codec(folder)).to_tag()


def refused(line: Line, registry: MemoryRegistry, version: RegisteredVersion, folder: Path) -> str:
    """Why a version is refused."""
    registry.promote(version, folder)
    Follower(line, registry, lambda version: None).check()
    assert line.champion is not None and line.champion.name == "tiny@1"
    assert line.following.refused == version.name
    return str(line.following.refused_because)


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_artifact(what: str, line: Line, registry: MemoryRegistry, publish: Publish, tmp_path: Path) -> None:
    spoil, reason = DAMAGED[what]
    version = registered(publish(tmp_path / "bad", 2), "2")
    spoil(tmp_path / "bad")
    assert reason in refused(line, registry, version, tmp_path / "bad")


@pytest.mark.parametrize("what", WRONG)
def test_a_whole_artifact_that_is_no_such_model(
    what: str, line: Line, registry: MemoryRegistry, publish: Publish, tmp_path: Path
) -> None:
    spoil, reason = WRONG[what]
    tag = golden_tag(publish(tmp_path / "first", 2).path)
    with Draft(tmp_path / "bad", kind="model", stage="train") as out:
        for path in (tmp_path / "first").iterdir():
            if path.name != "manifest.json":
                (out.path / path.name).write_bytes(path.read_bytes())
        spoil(out.path)
        artifact = out.publish({})
    assert reason in refused(line, registry, registered(artifact, "2", tag), artifact.path)


@pytest.mark.parametrize("tag", ["{", '{"ids": [1]}', '{"ids": [1], "values": ["x"]}'])
def test_a_golden_tag_that_cannot_be_read(
    tag: str, line: Line, registry: MemoryRegistry, publish: Publish, tmp_path: Path
) -> None:
    version = registered(publish(tmp_path / "bad", 2), "2", tag)
    assert "register the version again" in refused(line, registry, version, tmp_path / "bad")


def test_weights_that_are_no_numbers_never_serve_without_a_tag_either(
    line: Line, registry: MemoryRegistry, publish: Publish, tmp_path: Path
) -> None:
    with Draft(tmp_path / "bad", kind="model", stage="train") as out:
        for path in publish(tmp_path / "first", 2).path.iterdir():
            if path.name != "manifest.json":
                (out.path / path.name).write_bytes(path.read_bytes())
        set_weight("model.norm.weight", float("nan"))(out.path)
        artifact = out.publish({})
    version = replace(registered(artifact, "2", "{}"), tags={})
    assert "NaN" in refused(line, registry, version, artifact.path)
