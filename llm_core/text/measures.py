"""What the rules count in a text, computed with NumPy over all its characters at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from llm_core.text.characters import (
    APOSTROPHE,
    FIGURES,
    JOINER,
    LETTER,
    NAME,
    SPACE,
    UNSPACED,
    Codes,
    Flags,
    characters_of,
)
from llm_core.text.hashing import Hashes, Positions, mixed, ngram_hashes, span_hashes

Mask = npt.NDArray[np.bool_]

# Marks that are one mark when repeated: ellipses and dashes.
RUNS = ".-"
LINK_MARK = "://"
LINK = re.compile(r"(?<=\S)://[^\s<>()\[\]\"]*")
# The last code point of Latin Extended-B.
LAST_LATIN = 0x24F


@dataclass(frozen=True)
class Spans:
    """Pieces of a text in order: words, or words and marks. All arrays have shape (num_spans,)."""

    codes: Codes
    flags: Flags
    starts: Positions
    """First character of each span."""
    ends: Positions
    """Character after its last one."""

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def lengths(self) -> Positions:
        """Characters in each span."""
        return self.ends - self.starts

    @cached_property
    def kinds(self) -> Flags:
        """Flags of its first character, and where that is no letter, of all its characters."""
        kinds = self.flags[self.starts]
        others = np.flatnonzero(((kinds & LETTER) == 0) & (self.lengths > 1))
        if len(others):
            bounds = np.column_stack((self.starts[others], self.ends[others])).ravel()
            # Appended to, since the last end is behind the last character.
            kinds[others] = np.bitwise_or.reduceat(np.append(self.flags, np.uint8(0)), bounds)[::2]
        return kinds

    @cached_property
    def hashes(self) -> Hashes:
        """A 64-bit hash of its characters: the same on every machine and in every text."""
        return span_hashes(self.codes, self.starts, self.ends)


class Measures:
    """Counts and positions of one text; each is computed when first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return self.text.splitlines()

    @cached_property
    def words(self) -> Spans:
        """Runs between white space, and single characters of scripts without spaces."""
        space = (self._flags & SPACE).view(np.bool_)
        alone = (self._flags & UNSPACED).astype(np.bool_)
        starts = ~space
        starts[1:] &= space[:-1] | alone[1:] | alone[:-1]
        return self._spans(space, starts)

    @cached_property
    def tokens(self) -> Spans:
        """Words and marks: words without the marks around them, each mark by itself, an ellipsis or a link as one.

        Follows what spaCy's English tokenizer does with prose: ``nation's`` is two, ``well-known`` three, ``U.S`` one.
        """
        flags = self._flags
        space = (flags & SPACE).view(np.bool_)
        inside = (flags & NAME).astype(np.bool_)
        joins = _joins(flags, inside)
        inside |= joins
        starts = ~space
        starts[1:] &= ~(inside[1:] & inside[:-1])
        starts |= joins & (flags & APOSTROPHE).astype(np.bool_)
        for mark in RUNS:
            if mark + mark in self.text:
                starts[1:] &= (self._codes[1:] != self._codes[:-1]) | (self._codes[1:] != ord(mark))
        if LINK_MARK in self.text:
            for link in LINK.finditer(self.text):
                starts[link.start() : link.end()] = False
        return self._spans(space, starts)

    @cached_property
    def names(self) -> Spans:
        """Runs of letters, digits and the marks on them; single characters of scripts without spaces."""
        inside = (self._flags & NAME).astype(np.bool_)
        alone = (self._flags & UNSPACED).astype(np.bool_)
        starts = inside | alone
        starts[1:] &= ~(inside[1:] & inside[:-1])
        return self._spans(~(inside | alone), starts)

    def share_of(self, flag: int) -> float:
        """Share of the characters that have this flag."""
        return int(np.count_nonzero(self._flags & flag)) / max(len(self._flags), 1)

    @cached_property
    def is_latin(self) -> bool:
        """Whether most letters are Latin, as far as the script tells; true of a text without letters."""
        if self._codes.itemsize == 1:
            return True
        letters = self._codes[(self._flags & LETTER).astype(np.bool_)]
        return 2 * int(np.count_nonzero(letters > LAST_LATIN)) <= len(letters)

    @cached_property
    def folded(self) -> Measures:
        """The measures of the text without letter case."""
        return Measures(self.text.casefold())

    @cached_property
    def _characters(self) -> tuple[Codes, Flags]:
        return characters_of(self.text)

    @property
    def _codes(self) -> Codes:
        return self._characters[0]

    @property
    def _flags(self) -> Flags:
        return self._characters[1]

    def _spans(self, gap: Mask, starts: Mask) -> Spans:
        """Spans from where they start and which characters are in none; a span ends at a gap or at the next start."""
        ends = ~gap
        ends[:-1] &= gap[1:] | starts[1:]
        return Spans(self._codes, self._flags, np.flatnonzero(starts), np.flatnonzero(ends) + 1)


def shingle_hashes(measures: Measures, words: int = 5) -> Hashes:
    """Hashes of all runs of words, letter case and punctuation aside; a shorter text is one run.

    Shape (max(num_words - words + 1, 1),).
    """
    hashes = measures.folded.names.hashes
    missing = max(words - len(hashes), 0)
    return mixed(ngram_hashes(np.pad(hashes, (0, missing)), words))


def _joins(flags: Flags, names: Mask) -> Mask:
    """Marks that join two words."""
    joins = (flags & JOINER).astype(np.bool_)
    joins[:-1] |= (flags[:-1] & FIGURES).astype(np.bool_) & (flags[1:] == NAME)  # a digit has no other flag
    joins[1:] &= names[:-1]
    joins[:-1] &= names[1:]
    joins[:1] = joins[-1:] = False
    return joins
