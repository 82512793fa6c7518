"""Label: people's answers become a labelled data set, with who agreed and why each answer counts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from llm_core.artifact import MANIFEST, Artifact, Draft
from llm_core.labels.adjudicate import Method, adjudicate
from llm_core.labels.agreement import Agreement, measure
from llm_core.labels.records import labelled_record, write_records
from llm_core.labels.results import Results, read_results
from llm_core.labels.task import Kind, LabelError

AGREEMENT = "agreement.json"


def label(kind: Kind, method: Method, results: Results, agreement: Agreement, out: Draft) -> Artifact:
    """Adjudicate every labelled task and publish records, table and agreement; records_in = kept + rejected.

    Raises LabelError when nothing is labelled.
    """
    if not results.labelled:
        listed = ", ".join(f"{count} {reason}" for reason, count in results.rejected.items()) or "no record"
        raise LabelError(f"nothing is labelled ({listed}); label tasks in Label Studio and export it again")
    decisions = [(task, adjudicate(task, method, agreement.ranking)) for task in results.labelled]
    write_records(kind, [labelled_record(*each) for each in decisions], out.path)
    plain = json.dumps(asdict(agreement), indent=1, ensure_ascii=False)
    (out.path / AGREEMENT).write_text(plain + "\n", encoding="utf-8")
    return out.publish(
        {
            "records_in": results.records_in,
            "kept": len(decisions),
            "rejected": dict(results.rejected),
            "adjudication": dict(sorted(Counter(decision.how for _, decision in decisions).items())),
            "annotators": len(agreement.annotators),
            "alpha": agreement.alpha,
        }
    )


def label_results(kind: Kind, method: Method, path: Path, folder: Path) -> tuple[Artifact, Results, Agreement]:
    """Read Label Studio's export at `path` and publish an artifact of kind labels as `folder`.

    Raises LabelError for unusable results, and for a folder that holds something else.
    """
    require_replaceable(folder, "labels")
    results = read_results(path, kind)
    agreement = measure(kind, results.labelled)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    recipe = {"label": {"task": kind, "adjudicate": method}}
    with Draft(folder, kind="labels", stage="label", parents={"results": digest}, recipe=recipe) as out:
        return label(kind, method, results, agreement, out), results, agreement


def require_replaceable(folder: Path, kind: str) -> None:
    """Publishing replaces the folder, so it must be an artifact of that kind or empty."""
    if (folder / MANIFEST).is_file():
        Artifact.peek(folder, kind)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LabelError(f"{folder}: is there and is no {kind} artifact; name a new folder with --out")
