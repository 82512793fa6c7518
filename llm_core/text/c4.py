"""The rule of the Colossal Clean Crawled Corpus (Raffel et al. 2020, section 2.2), with the details of its own program.

Sentences end with the terminal marks of every script, closing quotation marks included, so that the lines of Chinese,
Arabic or Hindi stay, and a Chinese character counts as a word. The phrases that betray boilerplate are English.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice

from llm_core.config import C4, Clean
from llm_core.text.characters import SENTENCE_ENDS
from llm_core.text.document import Document, Rejection
from llm_core.text.filters import WORD

TERMINAL_MARKS = frozenset(SENTENCE_ENDS + "\"'”’」』")
# A line may end with a citation, which is cut out before its end is judged.
POSSIBLE_ENDS = TERMINAL_MARKS | {"]"}
ELLIPSES = ("...", "…")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
PLACEHOLDER = "lorem ipsum"
SCRIPT = "javascript"
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
# Without one of these no line holds any of the above.
HINTS = (PLACEHOLDER, SCRIPT, "cookie", "terms of use", "privacy policy")
# An end with another word behind it. Full stops of an ellipsis, of initials as in U.S. and of titles end no sentence.
SENTENCE_BREAK = re.compile(
    rf"[{re.escape(SENTENCE_ENDS)}]++(?<![.].)(?<!\b\w.)(?<!\b[MDS][rst].)(?<!\bMrs.)"
    r"(?:(?<=[。！？])|(?=\W{0,8}\s))(?=\W{0,40}\w)"
)


def c4(document: Document, cfg: Clean) -> Document | Rejection:
    """Keep the lines that are sentences; reject code, placeholder text, and what has too few sentences left."""
    bounds, folded = cfg.c4, document.measures.folded.text
    kept = _sentence_lines(bounds, document.measures.lines)
    if "{" in folded or any(map(folded.__contains__, HINTS)):
        screened = _without_boilerplate(kept)
        if isinstance(screened, Rejection):
            return screened
        kept = screened
    if len(kept) < bounds.min_sentences:
        sentences = sum(len(SENTENCE_BREAK.findall(line)) + 1 for line in kept)
        if sentences < bounds.min_sentences:
            return Rejection("c4_few_sentences", f"{sentences} sentences, {bounds.min_sentences} needed")
    text = "\n".join(kept).strip()
    return document if text == document.text else replace(document, text=text)


def _sentence_lines(bounds: C4, lines: list[str]) -> list[str]:
    """The lines that end like sentences and have enough words, none too long, with their citations cut out."""
    kept = []
    for line in map(str.strip, lines):
        if bounds.needs_terminal_mark and line[-1:] not in POSSIBLE_ENDS:
            continue
        uncited = CITATION.sub("", line) if bounds.strip_citations and "[" in line else line
        if bounds.needs_terminal_mark and (uncited[-1:] not in TERMINAL_MARKS or uncited.endswith(ELLIPSES)):
            continue
        if _has_words(line, bounds.min_line_words) and not _has_long_word(line, bounds.max_word_length):
            kept.append(uncited)
    return kept


def _has_words(line: str, count: int) -> bool:
    # Words between white space are quickly counted; where they are too few, characters may be words.
    return len(line.split(None, max(count - 1, 0))) >= count or (
        not line.isascii() and sum(1 for _ in islice(WORD.finditer(line), count)) >= count
    )


def _has_long_word(line: str, length: int) -> bool:
    if not 0 < length < len(line) or max(map(len, line.split())) <= length:
        return False
    return any(len(word[0]) > length for word in WORD.finditer(line))


def _without_boilerplate(lines: list[str]) -> list[str] | Rejection:
    """The lines without those on scripts and policies; placeholder text or a curly bracket rejects the whole."""
    kept = []
    for line in lines:
        folded = line.casefold()
        if PLACEHOLDER in folded:
            return Rejection("c4_lorem_ipsum", "a line holds the placeholder text")
        if SCRIPT in folded:
            continue
        if "{" in line:
            return Rejection("c4_curly_bracket", "a line holds a curly bracket")
        if not any(policy in folded for policy in POLICIES):
            kept.append(line)
    return kept
