"""What kind of character each code point is: one byte of flags, looked up for a whole text at once."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint32]
Flags = npt.NDArray[np.uint8]

SPACE = 1
"""White space; its value is 1 so that the flag alone can be read as a boolean."""
NAME = 2
"""What words are made of: letters, the marks on them, digits; without UNSPACED."""
LETTER = 4
"""Letters, Chinese characters included."""
UNSPACED = 8
"""Chinese characters and Japanese syllables, which are written without spaces: each counts as a word."""
SYMBOL = 16
"""Symbols, controls, and the marks of markup and code that Unicode files under punctuation."""
JOINER = 32
"""Marks that keep two words together when they stand alone between them, as in U.S, AT&T or a_b."""
FIGURES = 64
"""Marks that do so where the second word is a figure, as in 1,000 and 10:30."""
APOSTROPHE = 128
"""Marks that begin the second word where they join two, as in nation's."""

UNSPACED_RANGES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
MARKUP = frozenset("#@*\\_")
SENTENCE_ENDS = ".!?։؝؞؟۔।॥၊။።፧፨។៕᠃᠉‼‽⁇⁈⁉⸮⸼。﹒﹖﹗！．？｡"
"""Marks with Unicode's property Sentence_Terminal, of the scripts in use today."""

LAST_LATIN_1 = 0xFF
# Planes 2 and 3 hold ideographs alone; above are unassigned and private code points, but for variation selectors.
FIRST_IDEOGRAPH_PLANE = 0x20000
END_OF_IDEOGRAPHS = 0x40000
VARIATION_SELECTORS = slice(0xE0100, 0xE01F0)
# Marks that are always by themselves: hyphens, dashes and ellipses.
SEPARATORS = frozenset("-~…\u2010\u2011\u2012\u2013\u2014\u2015")
ROLES = dict.fromkeys("'\u2019", JOINER | APOSTROPHE) | dict.fromkeys(",:/=<>", FIGURES) | dict.fromkeys(SEPARATORS, 0)


def characters_of(text: str) -> tuple[Codes, Flags]:
    """The code points of a text and their flags; one byte a code point where the text fits Latin-1, four elsewhere."""
    try:
        latin = text.encode("latin-1")
    except UnicodeEncodeError:
        return _wide_characters_of(text)
    return np.frombuffer(latin, np.uint8), np.frombuffer(latin.translate(LATIN_FLAGS), np.uint8)


def _wide_characters_of(text: str) -> tuple[Codes, Flags]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    flags = np.frombuffer(bytearray(codes.astype(np.uint8).tobytes().translate(LATIN_FLAGS)), np.uint8)
    # Most texts have few characters beyond Latin-1: only those are looked up in the large table.
    beyond = np.flatnonzero(codes > LAST_LATIN_1)
    flags[beyond] = _all_flags()[codes[beyond]]
    return codes, flags


def _flags_of(code: int) -> int:
    character = chr(code)
    if character.isspace():
        return SPACE
    category = unicodedata.category(character)
    flags = ROLES.get(character, JOINER if category[0] == "P" or category in ("Sc", "Sk", "Sm") else 0)
    if character in MARKUP or category[0] in "SC":
        flags |= SYMBOL
    if character.isalpha():
        flags |= LETTER
    if any(first <= code <= last for first, last in UNSPACED_RANGES):
        return flags | UNSPACED
    return flags | NAME if character.isalnum() or category[0] == "M" else flags


LATIN_FLAGS = bytes(_flags_of(code) for code in range(256))


@cache
def _all_flags() -> Flags:
    """Flags of every code point, 1.1 MB, made when the first text beyond Latin-1 comes."""
    flags = np.full(0x110000, SYMBOL, np.uint8)
    flags[:FIRST_IDEOGRAPH_PLANE] = [_flags_of(code) for code in range(FIRST_IDEOGRAPH_PLANE)]
    flags[FIRST_IDEOGRAPH_PLANE:END_OF_IDEOGRAPHS] = UNSPACED | LETTER
    flags[VARIATION_SELECTORS] = NAME
    return flags
