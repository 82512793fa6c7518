"""What the champion scores on the examples that a challenger was scored on, remembered between nights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_core.artifact import Artifact
from llm_core.config import Evaluate

if TYPE_CHECKING:
    import pandas as pd

DOCUMENTS = "documents"
"""The suite of the held-out documents, whose scores are bits."""
TOLD = ("metrics", "samples", "suites", "reliability")
"""What a report says beside its rows, each in a JSON file."""


def score_heldout(cfg: Evaluate, folder: Path, documents: Artifact, memo: Path) -> pd.Series[float]:
    """Bits that a registered model, with its own tokenizer, spends on each held-out document, indexed by sha256."""
    from llm_core.text.document import CleanDocument
    from llm_core.text.shards import read_documents

    heldout = (entry for entry in read_documents(documents.path, CleanDocument) if entry.split == "test")
    return score_by_hash(cfg, folder, {entry.sha256: entry.text for entry in heldout}, memo)


def score_by_hash(cfg: Evaluate, folder: Path, texts: Mapping[str, str], memo: Path) -> pd.Series[float]:
    """The same of any texts by their sha256.

    Remembered in `memo`: the champion meets the same documents every night.
    """
    import pandas as pd

    from llm_core.devices import computing, pick_device, pick_scoring_precision
    from llm_core.evals.hiding import Hiding
    from llm_core.evals.perplexity import Scoring, score_texts
    from llm_core.models import load_pretrained
    from llm_core.tokenizer import Tokenizer

    model = Artifact.open(folder, "model")
    hashes = list(texts)
    place = _memo_place(cfg, model.digest, hashes, memo)
    if place.exists():
        return pd.read_parquet(place)["bits"]
    device = pick_device()
    with computing(threads=0):
        network, tokenizer = load_pretrained(model.path).to(device), Tokenizer.load(model.path)
        precision = pick_scoring_precision(device)
        scoring = Scoring(cfg.stride, cfg.batch_windows, precision, Hiding.of(network, tokenizer))
        scored = score_texts(network, tokenizer, texts.values(), scoring)
    scored.index = pd.Index(hashes, name="sha256")
    _remember(scored, place)
    return scored["bits"]


def read_bits(report: Artifact) -> pd.Series[float]:
    """What the model of a report spends on each held-out document, indexed by sha256."""
    import pandas as pd

    return pd.read_parquet(report.path / f"{DOCUMENTS}.parquet").set_index("sha256")["bits"]


def remember_scores(cfg: Evaluate, model: str, report: Artifact, memo: Path) -> None:
    """Keep what the evaluate stage found for the model of this digest: tomorrow it may be the champion."""
    import pandas as pd

    scored = pd.read_parquet(report.path / "documents.parquet").set_index("sha256")[["num_tokens", "num_bytes", "bits"]]
    place = _memo_place(cfg, model, list(scored.index), memo)
    if not place.exists():
        _remember(scored, place)


def _memo_place(cfg: Evaluate, model: str, hashes: list[str], memo: Path) -> Path:
    return memo / f"{_digest([model, sorted(hashes), cfg.stride])}.parquet"


def _remember(scored: pd.DataFrame, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(".draft")
    scored.to_parquet(draft)
    os.replace(draft, place)


def remember_rows(model: str, report: Artifact, memo: Path) -> None:
    """Keep the scores of every further suite of a report for the model of this digest."""
    for path in sorted(report.path.glob("*.parquet")):
        if path.stem != DOCUMENTS:
            place = _rows_place(model, path.stem, memo)
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_suffix(".draft")
            shutil.copyfile(path, draft)
            os.replace(draft, place)


def remembered_rows(model: str, suite: str, memo: Path) -> pd.DataFrame | None:
    """The last scores of a model on a suite, None where it was never asked."""
    import pandas as pd

    place = _rows_place(model, suite, memo)
    return pd.read_parquet(place) if place.exists() else None


def remember_told(model: str, report: Artifact, memo: Path) -> None:
    """Keep the numbers and samples of a report for the model of this digest."""
    for name in TOLD:
        place = memo / model / f"{name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(".draft")
        shutil.copyfile(report.path / place.name, draft)
        os.replace(draft, place)


def remembered_told(model: str, memo: Path) -> dict[str, Any]:
    """The last numbers and samples of a model, by name; of one that was never evaluated here, none."""
    places = {name: memo / model / f"{name}.json" for name in TOLD}
    return {name: json.loads(place.read_text(encoding="utf-8")) for name, place in places.items() if place.exists()}


def _rows_place(model: str, suite: str, memo: Path) -> Path:
    return memo / model / f"{suite}.parquet"


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
