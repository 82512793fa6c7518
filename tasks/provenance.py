"""The answer to "where did this model come from": from a registered version back to every data file."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tasks.ledger import Ledger
from tasks.tracking import Tracker


def provenance(tracker: Tracker, ledger: Ledger, line: str, number: int) -> dict[str, Any]:
    """Data files with sha256, commit, recipe, flow run, MLflow run and ledger entries of one version."""
    version = tracker.version(line, number)
    inventory = json.loads(tracker.read_file(version.run_id, "inventory.json"))
    recipe = tracker.read_file(version.run_id, "run.yaml")
    about = [entry for entry in ledger.entries(line) if entry.body.get("version") == number]
    return {
        "version": version.name,
        "artifact": version.tags.get("tidemill.artifact"),
        "key": version.tags.get("tidemill.key"),
        "commit": version.tags.get("git.commit"),
        "dirty": version.tags.get("git.dirty") == "true",
        "recipe_sha256": version.tags.get("config.sha256"),
        "environment_sha256": version.tags.get("environment.sha256"),
        "recipe": recipe,
        "started_from": yaml.safe_load(recipe)["train"].get("start_name") or None,
        "flow_run": version.tags.get("prefect.flow_run_id"),
        "mlflow": version.run_id,
        "dvc": {
            name.removeprefix("dvc.out."): md5 for name, md5 in version.tags.items() if name.startswith("dvc.out.")
        },
        "data": inventory["files"],
        "ledger": [{"sequence": e.sequence, "at": e.at, "kind": e.kind, "hash": e.hash, **e.body} for e in about],
    }
