"""What a batch of data looks like in numbers: counts that add up, and merge to the same whole in any order.

Every worker counts its own part of a batch. All counts are integers and merging adds them, so the number of workers
and the order of the parts change nothing, not even the bytes of ``profile.json``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

from llm_core.text.document import CleanDocument, Rejection
from llm_core.text.split import SPLITS

PROFILES = "profile.json"
PROFILE_FORMAT = 1
DUPLICATE_REASONS = ("duplicate", "near_duplicate", "repeated_text")
BINS_PER_OCTAVE = 8
# Lengths below this have a bin of their own.
FIRST_OCTAVE = 2 * BINS_PER_OCTAVE


class ProfileError(ValueError):
    """A profile that cannot be read or merged; the message names the file or batch, the key and the value."""


@dataclass
class Profile:
    """Counts of one batch, or of a part of it. Documents are those kept; records are all that came in."""

    batch: str
    split_documents: Counter[str] = field(default_factory=Counter)
    split_bytes: Counter[str] = field(default_factory=Counter)
    language_documents: Counter[str] = field(default_factory=Counter)
    """Documents by ISO 639-1 code; those that no rule asked about are under the empty one."""
    language_bytes: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    """Documents by length bin, see length_bin."""
    characters: int = 0
    """Unicode characters of the documents: bytes per character tell the scripts apart."""
    kept_raw_bytes: int = 0
    """What the kept records came in with, before cleaning; a row of a table counts with its clean text."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Records by reason."""
    rejected_bytes: Counter[str] = field(default_factory=Counter)
    """Raw bytes by reason."""
    redactions: Counter[str] = field(default_factory=Counter)
    """Replaced pieces of personal data in documents, by kind."""
    contaminated: Counter[str] = field(default_factory=Counter)
    """Records kept out for an evaluation suite, by suite. Start it with a zero for each suite that records are compared
    with, so that the report shows those that nothing overlapped with."""

    def add(self, document: CleanDocument) -> None:
        """Count a document that is kept. Runs for every document, so it never looks into the text."""
        size = document.num_bytes
        self.split_documents[document.split] += 1
        self.split_bytes[document.split] += size
        self.language_documents[document.language] += 1
        self.language_bytes[document.language] += size
        self.lengths[length_bin(size)] += 1
        self.characters += len(document.text)
        self.kept_raw_bytes += document.end - document.start if document.unit == "byte" else size
        for redaction in document.redactions.split():
            kind, _, count = redaction.partition("=")
            self.redactions[kind] += int(count)

    def reject(self, rejection: Rejection, num_bytes: int, suites: tuple[str, ...] = ()) -> None:
        """Count a record of `num_bytes` raw bytes that is not kept; `suites` are those whose text it holds."""
        self.rejected[rejection.reason] += 1
        self.rejected_bytes[rejection.reason] += num_bytes
        self.contaminated.update(suites)

    def merge(self, other: Profile) -> None:
        """Add the counts of another part of the same batch."""
        if other.batch != self.batch:
            raise ProfileError(f"batch {self.batch}: cannot merge a part of batch {other.batch}; use total")
        self._include(other)

    @property
    def kept(self) -> int:
        """Documents kept."""
        return self.split_documents.total()

    @property
    def records_in(self) -> int:
        """All records: the kept and those rejected for any reason."""
        return self.kept + self.rejected.total()

    @property
    def kept_bytes(self) -> int:
        """Clean text of the documents, in UTF-8."""
        return self.split_bytes.total()

    @property
    def bytes_in(self) -> int:
        """Raw bytes of all records."""
        return self.kept_raw_bytes + self.rejected_bytes.total()

    @property
    def duplicates(self) -> int:
        """Records rejected as copies of earlier ones, whole or in part."""
        return sum(self.rejected[reason] for reason in DUPLICATE_REASONS)

    def quantile(self, q: float) -> float:
        """Length in bytes below which a share `q` of the documents lies; not a number where none was kept.

        Interpolated inside the bin that the true quantile lies in, so it is off by 12.5 % at most.
        """
        bins = sorted(self.lengths)
        rank = q * self.kept
        for number, up_to in zip(bins, accumulate(self.lengths[number] for number in bins), strict=True):
            if up_to >= rank:
                inside = 1 - (up_to - rank) / self.lengths[number]
                return bin_start(number) + inside * (bin_start(number + 1) - 1 - bin_start(number))
        return math.nan

    def to_json(self) -> str:
        """One line with sorted keys: equal counts are equal bytes."""
        return json.dumps(self._plain(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, content: str, where: str = "profile") -> Profile:
        """Read what to_json wrote; ProfileError names `where` and whatever is not as it must be."""
        try:
            values = json.loads(content)
        except json.JSONDecodeError as problem:
            raise ProfileError(f"{where}: not JSON ({problem}); run the clean stage again") from None
        return _parse(values, where)

    def _plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"format": PROFILE_FORMAT}
        for name, value in vars(self).items():
            counted = isinstance(value, Counter)
            plain[name] = {str(key): count for key, count in value.items()} if counted else value
        return plain

    def _include(self, other: Profile) -> None:
        for name in COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.characters += other.characters
        self.kept_raw_bytes += other.kept_raw_bytes


FIELDS = tuple(field.name for field in fields(Profile))
NUMBERS = ("characters", "kept_raw_bytes")
COUNTERS = tuple(name for name in FIELDS if name not in ("batch", *NUMBERS))


def total(batches: Iterable[Profile], name: str = "all batches") -> Profile:
    """The counts of several batches together."""
    together = Profile(name)
    for batch in batches:
        together._include(batch)
    return together


def length_bin(size: int) -> int:
    """The bin of a length: 8 to each doubling, so that a bin's width is at most an eighth of its lengths.

    Log-linear bins, as in HdrHistogram: integers only, so that no rounding of a logarithm moves a document.
    """
    shift = max(size.bit_length() - FIRST_OCTAVE.bit_length() + 1, 0)
    return shift * BINS_PER_OCTAVE + (size >> shift)


def bin_start(number: int) -> int:
    """The smallest length of a bin."""
    shift = max(number // BINS_PER_OCTAVE - 1, 0)
    return (number - shift * BINS_PER_OCTAVE) << shift


def write_profiles(batches: Sequence[Profile], folder: Path) -> None:
    """Write the batches, oldest first, as ``profile.json`` of an artifact."""
    lines = ",\n".join(batch.to_json() for batch in batches)
    with open(folder / PROFILES, "x", encoding="utf-8") as file:
        file.write(f"[\n{lines}\n]\n" if batches else "[]\n")


def read_profiles(folder: Path) -> list[Profile]:
    """The batches of an artifact, oldest first."""
    path = folder / PROFILES
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProfileError(f"{path}: missing; the artifact has no profile, run the clean stage again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ProfileError(f"{path}: not JSON ({problem}); run the clean stage again") from None
    if not isinstance(values, list):
        raise ProfileError(f"{path}: {type(values).__name__} instead of a list of batches; run the clean stage again")
    return [_parse(value, f"{path}, batch {number}") for number, value in enumerate(values)]


def _parse(values: Any, where: str) -> Profile:
    version = values.get("format") if isinstance(values, dict) else None
    if version != PROFILE_FORMAT:
        raise ProfileError(f"{where}: format {version!r}, this version reads {PROFILE_FORMAT}; clean again")
    if wrong := sorted(set(values) ^ {"format", *FIELDS}):
        raise ProfileError(f"{where}: {', '.join(wrong)}: unknown or missing; run the clean stage again")
    if not isinstance(values["batch"], str):
        raise ProfileError(f"{where}: batch: {values['batch']!r} is not a name")
    counts: dict[str, Any] = {name: _count(values[name], f"{where}: {name}") for name in NUMBERS}
    counts |= {name: _counter(values[name], f"{where}: {name}") for name in COUNTERS}
    counts["lengths"] = _by_bin(counts["lengths"], f"{where}: lengths")
    profile = Profile(values["batch"], **counts)
    _check_sums(profile, where)
    return profile


def _counter(values: Any, where: str) -> Counter[str]:
    if not isinstance(values, Mapping):
        raise ProfileError(f"{where}: {values!r} is not a mapping of counts")
    return Counter({key: _count(value, f"{where}.{key}") for key, value in values.items()})


def _count(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise ProfileError(f"{where}: {value!r} is not a count")
    return value


def _by_bin(counts: Counter[str], where: str) -> Counter[int]:
    if wrong := [key for key in counts if not (key.isascii() and key.isdigit())]:
        raise ProfileError(f"{where}: {wrong[0]!r} is not the number of a bin")
    return +Counter({int(key): count for key, count in counts.items()})  # an empty bin has no place in a quantile


def _check_sums(profile: Profile, where: str) -> None:
    if unknown := sorted(set(profile.split_documents) - set(SPLITS)):
        raise ProfileError(f"{where}: split_documents: {unknown[0]!r} is no split; splits are {', '.join(SPLITS)}")
    for name in ("language_documents", "lengths"):
        if (found := getattr(profile, name).total()) != profile.kept:
            raise ProfileError(f"{where}: {name} add up to {found}, split_documents to {profile.kept}")
