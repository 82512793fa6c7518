"""Model cards: what a version is and where it came from, for people who look at its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_core.artifact import Artifact
from llm_core.models.folder import CONFIG
from llm_core.serving.registry import RegisteredVersion

README = "README.md"
MAX_README_CHARACTERS = 100_000
# What registration notes as tags of a version, under the names that `tidemill lineage --json` gives it.
FACTS = {
    "commit": "git.commit",
    "flow_run": "prefect.flow_run_id",
    "recipe_sha256": "config.sha256",
    "license": "data.license",
    "dvc_lock_md5": "dvc.lock.md5",
}
DIRTY, DVC_OUT = "git.dirty", "dvc.out."


@dataclass(frozen=True)
class Card:
    """What a model's folder says of itself, read once: the folder may be replaced while the version serves."""

    shape: Mapping[str, Any] = field(default_factory=dict)
    """config.json, in Hugging Face's names."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What training measured."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Digests of the artifacts that it was made from, by stage."""
    readme: str | None = None

    @classmethod
    def read(cls, artifact: Artifact) -> Card:
        """The card of a verified model artifact."""
        shape = json.loads((artifact.path / CONFIG).read_text(encoding="utf-8"))
        readme = artifact.path / README
        text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
        return cls(shape, artifact.stats, artifact.parents, text[:MAX_README_CHARACTERS] or None)


def lineage(version: RegisteredVersion) -> dict[str, Any]:
    """What the registry knows of a version's origin; `command` tells the rest, down to the data files."""
    tags = version.tags
    return {
        **{name: tags.get(tag) for name, tag in FACTS.items()},
        "dirty": tags.get(DIRTY) == "true",
        "mlflow": version.run_id,
        "dvc": {name.removeprefix(DVC_OUT): md5 for name, md5 in tags.items() if name.startswith(DVC_OUT)},
        # A folder that is served without a registry has no tags, and nothing that the command could look up.
        "command": f"tidemill lineage {version.name}" if tags else None,
    }
