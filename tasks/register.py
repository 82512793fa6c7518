"""Register a complete model as a version of its line: once per key, however often a run dies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from filelock import FileLock

from llm_core.artifact import Artifact
from llm_core.config import Register
from tasks.ledger import Entry, Ledger
from tasks.pinned import keep_tokenizer
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from tasks.tracking import Tracker


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

    `facts` become the version's tags, since MLflow gives back no params of a version.
    """
    with FileLock(ws.home / "register.lock", timeout=600):
        entry = ledger.find("registered", key(cfg, model))
        if entry is not None:
            return entry
        ledger.append("reserved", cfg.line, key(cfg, model), {"artifact": model.digest})
        version = tracker.find_version(cfg.line, model.key)
        if version is None:
            tags = {**facts, "tidemill.key": model.key, "tidemill.artifact": model.digest, **_golden(model)}
            version = tracker.create_version(cfg.line, run_id, model.path, tags)
        body = {
            "version": version.number,
            "artifact": model.digest,
            "run": version.run_id,
            "model_key": model.key,
            "model_bytes": sum(file["bytes"] for file in model.files.values()),
            "tokenizer": keep_tokenizer(ws, model.path),
        }
        entry = ledger.append("registered", cfg.line, key(cfg, model), body)
        tracker.tag_version(version, {"tidemill.ledger": entry.hash})
        return entry


def _golden(model: Artifact) -> dict[str, str]:
    """What the model says to a sentence: whoever serves it has to find the same."""
    from llm_core.models import load_pretrained
    from llm_core.pipeline.codec import Codec
    from llm_core.serving.golden import TAG, Golden

    return {TAG: Golden.of(load_pretrained(model.path), Codec(model.path)).to_tag()}


def key(cfg: Register, model: Artifact) -> str:
    """One version per model key and line."""
    return f"{cfg.line}:{model.key}"
