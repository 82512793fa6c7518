"""The rule of FineWeb (Penedo et al. 2024, section 3.5): pages of lists, menus and repeated lines.

Lines may end with the terminal marks of every script in use. A line is short by its number of characters, so that short
lines of Chinese, verse above all, are taken for a list: leave the rule out, or set a smaller length, for such sources.
"""

from __future__ import annotations

from collections.abc import Iterator

from llm_core.config import Clean, FineWeb
from llm_core.text.characters import SENTENCE_ENDS
from llm_core.text.document import Document, Rejection
from llm_core.text.measures import Measures

TERMINAL_MARKS = frozenset(SENTENCE_ENDS)


def fineweb(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a text of few sentences and many short or repeated lines."""
    return next(_failures(cfg.fineweb, document.measures), document)


def _failures(bounds: FineWeb, measures: Measures) -> Iterator[Rejection]:
    lines = [line for line in measures.text.split("\n") if line and not line.isspace()]
    ends = sum(line[-1] in TERMINAL_MARKS for line in lines) / max(len(lines), 1)
    if ends < bounds.min_terminal_line_share:
        needed = f"{bounds.min_terminal_line_share} needed"
        yield Rejection("fineweb_line_ends", f"{ends:.3f} of the lines end like a sentence, {needed}")
    short = sum(len(line) <= bounds.short_line_length for line in lines) / max(len(lines), 1)
    if 0 < bounds.max_short_line_share < short:
        allowed = f"{bounds.max_short_line_share} allowed"
        yield Rejection("fineweb_short_lines", f"{short:.3f} of the lines are short, {allowed}")
    newlines = measures.text.count("\n")
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    share = repeated / max(len(measures.text) - newlines, 1)
    if 0 < bounds.max_duplicate_characters < share:
        allowed = f"{bounds.max_duplicate_characters} allowed"
        yield Rejection("fineweb_repeated_lines", f"{share:.3f} of the characters are in copies of lines, {allowed}")
    if 0 < bounds.max_newlines_per_word * len(measures.tokens) < newlines:
        allowed = f"{bounds.max_newlines_per_word} a word allowed"
        yield Rejection("fineweb_list", f"{newlines} line ends in {len(measures.tokens)} words and marks, {allowed}")
