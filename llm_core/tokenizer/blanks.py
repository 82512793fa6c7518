"""Very long runs of white space, on which backtracking regular expressions run out of stack."""

from __future__ import annotations

import re

# tiktoken 0.14 and rustbpe 0.1 end in a panic on runs of a million characters; measured, 600,000 are no problem yet.
LONG = 100_000
# Looked for at the beginnings of runs only: trying every place inside a shorter one would take quadratic time.
LONG_BLANK = re.compile(rf"(?<!\s)\s{{{LONG},}}")


def has_long_blank(text: str) -> bool:
    """Whether a text has a run of at least `LONG` white space characters.

    Nearly free: such a run covers one of the characters at every `LONG`-th place, and few texts are that long.
    """
    probes = text[LONG - 1 :: LONG]
    return any(map(str.isspace, probes)) and LONG_BLANK.search(text) is not None


def shorten_blanks(text: str) -> str:
    """The text with such runs shortened to a space."""
    return LONG_BLANK.sub(" ", text) if has_long_blank(text) else text
