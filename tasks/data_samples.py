"""The documents and dropped records that the data report shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from llm_core.artifact import Artifact
from llm_core.text.samples import Row, sample_rows
from llm_core.text.shards import DOCUMENTS, shards
from tasks.data_plots import shown_bytes

NUM_SAMPLES = 20
SAMPLE_CHARACTERS, SAMPLE_LINES = 500, 10
# No character is longer than 4 bytes in UTF-8; one more shows that there is more.
SAMPLE_BYTES = 4 * (SAMPLE_CHARACTERS + 1)
KEPT_COLUMNS = ("source", "start", "end", "unit", "language", "split", "num_bytes", "text")
DROPPED_COLUMNS = ("source", "start", "end", "unit", "sha256", "reason", "detail", "raw")
# Control characters have no place in HTML; their pictures tell the reader that they are there.
CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x0D: None, 0x7F: 0x2421}


@dataclass(frozen=True)
class Sample:
    """The beginning of one document or record."""

    title: str
    place: str
    text: str
    more: str
    """Says how large the whole is; empty where nothing was cut."""
    detail: str = ""


def kept_samples(documents: Artifact) -> list[Sample]:
    """Some documents of a clean artifact, drawn by its digest."""
    return sample_rows(shards(documents.path, DOCUMENTS), KEPT_COLUMNS, NUM_SAMPLES, documents.digest, _kept)


def dropped_samples(quarantine: Sequence[Path], seed: str) -> list[Sample]:
    """Some records of a quarantine's files, drawn by `seed`; what is not UTF-8 in them is shown as such."""
    if not quarantine:
        return []
    take = partial(_dropped, quarantine=quarantine[0].parent)
    return sample_rows(sorted(quarantine), DROPPED_COLUMNS, NUM_SAMPLES, seed, take)


def _kept(row: Row) -> Sample:
    title = " · ".join(filter(None, (row["split"], row["language"])))
    return _sample(title, row, row["text"][: SAMPLE_CHARACTERS + 1], row["num_bytes"])


def _dropped(row: Row, quarantine: Path) -> Sample:
    beginning, num_bytes = _raw(row, quarantine)
    sample = _sample(row["reason"], row, beginning.decode(errors="replace"), num_bytes, row["detail"])
    return (
        sample if num_bytes or row["raw"] is not None else replace(sample, more="no original bytes in the quarantine")
    )


def _raw(row: Row, quarantine: Path) -> tuple[bytes, int]:
    """First bytes of a record and its size; a large one lies in a file of its own, a table's row has none."""
    if row["raw"] is not None:
        return row["raw"][:SAMPLE_BYTES], len(row["raw"])
    path = quarantine / f"{row['sha256']}.bin"
    if not path.is_file():
        return b"", 0
    with open(path, "rb") as file:
        return file.read(SAMPLE_BYTES), path.stat().st_size


def _sample(title: str, row: Row, beginning: str, num_bytes: int, detail: str = "") -> Sample:
    lines = re.sub(r"\n\s*\n", "\n\n", beginning.translate(CONTROLS)).strip().split("\n")
    text = "\n".join(lines[:SAMPLE_LINES])[:SAMPLE_CHARACTERS]
    is_cut = len(lines) > SAMPLE_LINES or len(beginning) > SAMPLE_CHARACTERS
    more = f"{shown_bytes(num_bytes)} in all" if is_cut else ""
    where = "" if row["unit"] == "file" else f", {row['unit']}s {row['start']:,} to {row['end']:,}"
    return Sample(title, f"{_visible(row['source'])}{where}", text, more, _visible(detail))


def _visible(name: str) -> str:
    """A name on one line, with what has no shape or turns the order of letters spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
