"""Rule toxicity: documents in which too many words are on a list are rejected.

A blunt tool, after the C4 block list (Raffel et al. 2020), which is why it is off by default and goes by a share: one
listed word also drops medical and legal texts, and what minorities write about themselves (Dodge et al. 2021).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from llm_core.config import Clean
from llm_core.sources import resolve
from llm_core.text.document import Document, Rejection
from llm_core.text.measures import Measures
from llm_core.text.segmentation import UNSPACED

WORD = re.compile(r"\w+")
UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")


class WordListError(ValueError):
    """A word list that is missing, unreadable or empty; the message names it and what to do."""


def flag_toxicity(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a document in which listed words and phrases are a larger share of the words than allowed.

    Words are compared whole and case-folded; those of scripts without spaces wherever their characters are in a row.
    Raises WordListError when a list of clean.toxicity.words cannot be used, or is not the one that the recipe means.
    """
    hits = _phrases(cfg.toxicity.words, cfg.toxicity.sha256).count(document.text.casefold())
    share = hits / max(len(document.measures.words), 1) if hits else 0.0
    if share > cfg.toxicity.max_share:
        return Rejection("toxic", f"{share:.4f} of the words are listed, {cfg.toxicity.max_share} allowed")
    return document


def words_sha256(places: Sequence[str], base: Path = Path()) -> str:
    """Digest of the lists' content, for keys of what depends on them; raises WordListError as the rule does."""
    return _digest([_read(place, base) for place in places])


class Phrases:
    """The listed words and phrases; only those whose first word is in a text are looked for in earnest."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._lengths = {phrase: len(Measures(phrase).words) for phrase in phrases}
        self._by_word: dict[str, list[str]] = {}
        self._anywhere: list[str] = []
        for phrase in phrases:
            first = WORD.search(phrase)
            if first is None or UNSPACED_CHARACTER.search(phrase):
                self._anywhere.append(phrase)
            else:
                self._by_word.setdefault(first[0], []).append(phrase)

    def count(self, folded: str) -> int:
        """How many words of a case-folded text belong to listed words or phrases; some 10 MB a CPU second."""
        present = self._by_word.keys() & set(WORD.findall(folded))
        whole = [phrase for first in present for phrase in self._by_word[first]]
        anywhere = [phrase for phrase in self._anywhere if phrase in folded]
        if not whole and not anywhere:
            return 0
        pattern = rf"(?<!\w)(?:{_either(whole)})(?!\w)|{_either(anywhere)}"
        return sum(self._lengths[" ".join(match[0].split())] for match in re.finditer(pattern, folded))


def _either(phrases: list[str]) -> str:
    """A pattern for any of the phrases, the longest first, so that a phrase counts whole."""
    ordered = sorted(phrases, key=lambda phrase: (-len(phrase), phrase))
    return "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in ordered) or "(?!)"


@lru_cache(maxsize=8)
def _phrases(places: tuple[str, ...], sha256: str) -> Phrases:
    contents = [_read(place, Path()) for place in places]
    if sha256 not in ("", _digest(contents)):
        raise WordListError(
            f"clean.toxicity.words: {', '.join(places)}: not the lists that the recipe means, whose digest is "
            f"{sha256}; bring them back, or leave clean.toxicity.sha256 out"
        )
    lines = [line for content in contents for line in content.decode("utf-8-sig").splitlines()]
    listed = {" ".join(line.casefold().split()) for line in lines if not line.startswith("#")} - {""}
    if not listed:
        raise WordListError(f"clean.toxicity.words: {', '.join(places)}: no words in there; write one a line")
    return Phrases(sorted(listed))


def _digest(contents: Sequence[bytes]) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def _read(place: str, base: Path) -> bytes:
    path = resolve(place, base)
    try:
        content = path.read_bytes()
        content.decode("utf-8")
    except OSError as problem:
        raise WordListError(f"clean.toxicity.words: {place}: {problem.strerror} ({path}); correct the path") from None
    except UnicodeDecodeError as problem:
        raise WordListError(f"clean.toxicity.words: {place}: not UTF-8 at byte {problem.start}; convert it") from None
    return content
