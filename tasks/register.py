"""Register a complete model as a version of its line: once per key, however often a run dies.

What is registered can be traced, and was read back from where it is kept: the same files, which say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from llm_core.artifact import Artifact, ArtifactError
from llm_core.config import Register
from tasks.ledger import Entry, Ledger
from tasks.pinned import keep_tokenizer, vocabulary_of
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.tracking import Tracker, Version


TRACED = ("prefect.flow_run_id", "git.commit", "git.dirty", "config.sha256", "dvc.lock.md5", "environment.sha256")
"""Facts without which nobody could say where a version came from."""


class RegistrationError(ValueError):
    """A version that is not complete; the message says what is missing and what to do."""


def register(
    cfg: Register,
    model: Artifact,
    tracker: Tracker,
    ledger: Ledger,
    ws: Workspace,
    run_id: str,
    facts: Mapping[str, str],
) -> Entry:
    """The `registered` entry of this model in the line; whatever an earlier run did of it is found and adopted.

    `facts` become the version's tags, since MLflow gives back no params of a version. Raises RegistrationError where
    one of `TRACED` is missing, or where MLflow's copy is not the model; then the line has no new version in the ledger.
    """
    if missing := [name for name in TRACED if not facts.get(name)]:
        raise RegistrationError(f"{cfg.line}: not registered without {', '.join(missing)}; start it with tidemill run")
    with FileLock(ws.home / "register.lock", timeout=600):
        entry = ledger.find("registered", key(cfg, model))
        if entry is not None:
            return entry
        ledger.append("reserved", cfg.line, key(cfg, model), {"artifact": model.digest})
        version = tracker.find_version(cfg.line, model.key)
        if version is None:
            tags = {**facts, "tidemill.key": model.key, "tidemill.artifact": model.digest, **_golden(model)}
            version = tracker.create_version(cfg.line, run_id, model.path, tags)
        taken = _verified(tracker, version, model)
        body = {
            "version": version.number,
            "artifact": model.digest,
            "run": version.run_id,
            "model_key": model.key,
            "model_bytes": sum(file["bytes"] for file in model.files.values()),
            "tokenizer": keep_tokenizer(ws, vocabulary_of(ws, model)),
            **taken,
        }
        entry = ledger.append("registered", cfg.line, key(cfg, model), body)
        tracker.tag_version(version, {"tidemill.ledger": entry.hash})
        return entry


def _verified(tracker: Tracker, version: Version, model: Artifact) -> dict[str, Any]:
    """Read MLflow's copy as a server does: every file's sha256, and the numbers that the model itself computes.

    What it takes to serve it: the gate may have limits.
    """
    from llm_core.serving.golden import GoldenMismatch
    from llm_core.serving.loaded import LoadedModel
    from llm_core.serving.measuring import measure
    from llm_core.serving.registry import RegisteredVersion

    as_served = RegisteredVersion(version.line, str(version.number), model.digest, model.key, version.tags)
    try:
        loaded = LoadedModel.load(as_served, tracker.model_folder(version))
    except (ArtifactError, GoldenMismatch) as problem:
        raise RegistrationError(f"{version.name}: {problem}; {_AGAIN}") from None
    try:
        return measure(loaded)
    finally:
        loaded.runner.close()


_AGAIN = "delete this version in MLflow, which is not in service, and run again"


def _golden(model: Artifact) -> dict[str, str]:
    """What the model says to a sentence: whoever serves it has to find the same."""
    from llm_core.models import load_pretrained
    from llm_core.pipeline.codec import Codec
    from llm_core.serving.golden import TAG, Golden

    return {TAG: Golden.of(load_pretrained(model.path), Codec(model.path)).to_tag()}


def key(cfg: Register, model: Artifact) -> str:
    """One version per model key and line."""
    return f"{cfg.line}:{model.key}"
