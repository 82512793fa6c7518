"""Models in and out: a folder, hub repository or GGUF file becomes a model artifact; a model becomes a plain folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_core.artifact import MANIFEST, Artifact, Draft
from llm_core.models.folder import GENERATION_CONFIG, load_pretrained, save_pretrained
from llm_core.models.interface import ModelError, Network, Task

if TYPE_CHECKING:
    from llm_core.models.gguf_export import Format

# What travels beside config and weights: tokenizers and what decoding goes by.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    GENERATION_CONFIG,
)


def import_model(
    source: str, target: Path, task: Task | None = None, labels: Sequence[str] = (), revision: str | None = None
) -> Artifact:
    """Make a model artifact at `target` out of a folder, a GGUF file or a hub repository.

    Raises ModelError for what is not supported, and where `target` exists; then nothing is written.
    """
    _refuse_existing(target)
    place, revision = _place(source, revision)
    target.parent.mkdir(parents=True, exist_ok=True)
    recipe = {"source": source, "revision": revision, "task": task, "labels": list(labels)}
    with Draft(target, kind="model", stage="import", recipe=recipe) as out:
        if place.suffix == ".gguf":
            network = _from_gguf(place, out.path, task)
        else:
            network = load_pretrained(_verified(place), task, labels)
            save_pretrained(network, out.path)
            _copy_companions(place, out.path, generating=network.task in ("causal_lm", "seq2seq_lm"))
        return out.publish(describe(network))


def export_model(folder: Path, target: Path) -> dict[str, Any]:
    """Write the model of `folder` to `target` as transformers, vLLM and llama.cpp's converter read it.

    Every file is read and checked on the way. Raises ModelError where `target` exists; then nothing is written.
    """
    _refuse_existing(target)
    network = load_pretrained(_verified(folder))
    with _whole_or_nothing(target) as draft:
        save_pretrained(network, draft)
        _copy_companions(folder, draft, generating=True)
    return describe(network)


def export_gguf(folder: Path, target: Path, kind: Format = "f32") -> dict[str, Any]:
    """Write the model of `folder` as one GGUF file, which llama.cpp and what is built on it run.

    Raises ModelError where `target` exists, or for a model that the format does not hold; then nothing is written.
    """
    from llm_core.models.gguf_export import write_gguf

    _refuse_existing(target)
    network = load_pretrained(_verified(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.draft"
    try:
        notes = write_gguf(network, folder, draft, kind)
        _sync(draft)
        os.rename(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return {**describe(network), "type": kind, "bytes": target.stat().st_size, "warnings": notes}


def describe(network: Network) -> dict[str, Any]:
    """A network's facts."""
    return {
        "architecture": network.architecture,
        "task": network.task,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "vocab_size": network.config.vocab_size,
        "context": network.config.context,
    }


def _from_gguf(path: Path, folder: Path, task: Task | None) -> Network:
    from llm_core.models.gguf import read_gguf, write_tokenizer

    network, values = read_gguf(path)
    if task not in (None, network.task):
        raise ModelError(f"{path}: a GGUF file becomes a causal_lm; import it so, then its folder with --task {task}")
    save_pretrained(network, folder)
    write_tokenizer(values, folder)
    return network


def _place(source: str, revision: str | None) -> tuple[Path, str | None]:
    """The local folder or file of a source; of a hub repository also the commit that the revision stands for."""
    from llm_core.models.hub import fetch, is_repo_id

    if Path(source).exists() or not is_repo_id(source):
        return Path(source), revision
    folder = fetch(source, revision)
    return folder, folder.name  # the hub's cache names its folders by commit


def _verified(folder: Path) -> Path:
    """The folder itself; of an artifact after a look at every file."""
    if (folder / MANIFEST).is_file():
        Artifact.open(folder, "model")
    return folder


def _copy_companions(folder: Path, target: Path, generating: bool) -> None:
    for name in COMPANIONS:
        if (folder / name).is_file() and (generating or name != GENERATION_CONFIG):
            shutil.copyfile(folder / name, target / name)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise ModelError(f"{target}: exists already and is left alone; remove it or give another place")


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """A sibling folder to write into, which becomes `target` at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for path in (*draft.iterdir(), draft):
            _sync(path)
        os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
