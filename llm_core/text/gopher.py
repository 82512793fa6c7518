"""The quality and repetition rules of Gopher (Rae et al. 2021, section A1.1 and table A1).

Words and marks are told apart as in FineWeb's tools (Penedo et al. 2024), with which these bounds became a standard: a
mark is no word, but is counted where something is divided by the number of words. A Chinese character or a Japanese
syllable is a word; the bounds on the length of words judge the other words, and only where those are the more. The stop
words are asked for where the language is English, or is unknown and the script is Latin.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain

import numpy as np

from llm_core.config import Clean, Gopher
from llm_core.text.characters import LETTER, NAME, UNSPACED
from llm_core.text.document import Document, Rejection
from llm_core.text.hashing import Hashes, Positions, commonest, later_copies, ngram_hashes
from llm_core.text.measures import Measures, Spans

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
SHORTEST_TOP_NGRAM = 2
SHORTEST_DUPLICATE_NGRAM = 5


def gopher_quality(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a text whose words, symbols or lines are not those of prose."""
    bounds, measures = cfg.gopher, document.measures
    checks = chain(
        _words(bounds, measures.tokens),
        _symbols(bounds, measures),
        _lines(bounds, measures),
        _letters(bounds, measures.tokens),
        _stop_words(bounds, document),
    )
    return next(checks, document)


def gopher_repetition(document: Document, cfg: Clean) -> Document | Rejection:
    """Reject a text that repeats paragraphs, lines or runs of words."""
    bounds, text = cfg.gopher, document.text
    checks = chain(
        _repeated_paragraphs(bounds, text),
        _repeated_lines(bounds, text),
        _top_ngrams(bounds, document.measures),
        _duplicate_ngrams(bounds, document.measures),
    )
    return next(checks, document)


def _words(bounds: Gopher, tokens: Spans) -> Iterator[Rejection]:
    spaced = (tokens.kinds & NAME).astype(np.bool_)
    num_spaced = int(np.count_nonzero(spaced))
    num_words = num_spaced + int(np.count_nonzero(tokens.kinds & UNSPACED))
    if num_words < bounds.min_words:
        yield Rejection("gopher_few_words", f"{num_words} words, {bounds.min_words} needed")
    if bounds.max_words and num_words > bounds.max_words:
        yield Rejection("gopher_many_words", f"{num_words} words, {bounds.max_words} allowed")
    if 2 * num_spaced <= num_words:
        return
    mean = float(tokens.lengths[spaced].sum()) / num_spaced
    if mean < bounds.min_mean_word_length:
        yield Rejection("gopher_short_words", f"{mean:.2f} characters a word, {bounds.min_mean_word_length} needed")
    if bounds.max_mean_word_length and mean > bounds.max_mean_word_length:
        yield Rejection("gopher_long_words", f"{mean:.2f} characters a word, {bounds.max_mean_word_length} allowed")


def _symbols(bounds: Gopher, measures: Measures) -> Iterator[Rejection]:
    allowed = bounds.max_symbol_word_ratio
    for reason, symbols in (("gopher_hashes", ("#",)), ("gopher_ellipses", ELLIPSES)):
        count = sum(map(measures.text.count, symbols))
        if allowed and count > allowed * len(measures.tokens):
            yield Rejection(reason, f"{count} in {len(measures.tokens)} words and marks, {allowed} a word allowed")


def _lines(bounds: Gopher, measures: Measures) -> Iterator[Rejection]:
    # A text has at most as many lines of a kind as it has such marks: most texts are done with the count.
    text, lines = measures.text, measures.lines
    allowed = bounds.max_bullet_line_share
    if allowed and sum(map(text.count, BULLETS)) > allowed * len(lines):
        share = sum(line.lstrip().startswith(BULLETS) for line in lines) / len(lines)
        if share > allowed:
            yield Rejection("gopher_bullets", f"{share:.3f} of the lines begin with a bullet, {allowed} allowed")
    allowed = bounds.max_ellipsis_line_share
    if allowed and sum(map(text.count, ELLIPSES)) > allowed * len(lines):
        share = sum(line.rstrip().endswith(ELLIPSES) for line in lines) / len(lines)
        if share > allowed:
            yield Rejection("gopher_ellipsis_lines", f"{share:.3f} of the lines end with one, {allowed} allowed")


def _letters(bounds: Gopher, tokens: Spans) -> Iterator[Rejection]:
    share = int(np.count_nonzero(tokens.kinds & LETTER)) / max(len(tokens), 1)
    if share < bounds.min_alpha_word_share:
        needed = f"{bounds.min_alpha_word_share} needed"
        yield Rejection("gopher_not_alpha", f"{share:.3f} of the words and marks have a letter, {needed}")


def _stop_words(bounds: Gopher, document: Document) -> Iterator[Rejection]:
    if document.language != "en" and (document.language or not document.measures.is_latin):
        return
    needed = bounds.min_stop_words
    found = sum(f" {word} " in document.text for word in STOP_WORDS)
    if found < needed:  # some may stand beside a mark or at a line's end
        found = int(np.isin(_stop_word_hashes(), document.measures.tokens.hashes).sum())
    if found < needed:
        yield Rejection("gopher_stop_words", f"{found} of {len(STOP_WORDS)} English stop words, {needed} needed")


def _repeated_paragraphs(bounds: Gopher, text: str) -> Iterator[Rejection]:
    allowed = bounds.max_duplicate_paragraph_share, bounds.max_duplicate_paragraph_characters
    paragraphs = [paragraph.lstrip("\n") for paragraph in text.strip().split("\n\n")]
    yield from _repeated(paragraphs, len(text), "paragraphs", allowed)


def _repeated_lines(bounds: Gopher, text: str) -> Iterator[Rejection]:
    allowed = bounds.max_duplicate_line_share, bounds.max_duplicate_line_characters
    yield from _repeated(text.split("\n"), len(text), "lines", allowed)


def _repeated(pieces: list[str], length: int, name: str, allowed: tuple[float, float]) -> Iterator[Rejection]:
    """Pieces that repeat earlier ones: their share of the pieces, and of the characters; empty ones do not count."""
    pieces = [piece for piece in pieces if piece]
    first = set(pieces)
    if len(first) == len(pieces):
        return
    characters = sum(map(len, pieces)) - sum(map(len, first))
    shares = (len(pieces) - len(first)) / len(pieces), characters / max(length, 1)
    for share, bound, unit in zip(shares, allowed, (name, "characters"), strict=True):
        if bound and share > bound:
            yield Rejection(f"gopher_repeated_{name}", f"{share:.3f} of the {unit} are in copies, {bound} allowed")


def _top_ngrams(bounds: Gopher, measures: Measures) -> Iterator[Rejection]:
    tokens, length = measures.tokens, len(measures.text)
    most = len(tokens)
    for size, allowed in enumerate(bounds.max_top_ngram_shares, start=SHORTEST_TOP_NGRAM):
        # A longer run is no commoner than the shorter one that it begins with.
        if not allowed or most * _longest_run(tokens, size) <= allowed * length:
            continue
        # The characters in all its occurrences, with single spaces between the words.
        most, first = commonest(ngram_hashes(tokens.hashes, size))
        share = most * (int(tokens.lengths[first : first + size].sum()) + size - 1) / length
        if share > allowed:
            detail = f"{share:.3f} of the characters in the commonest run of {size} words, {allowed} allowed"
            yield Rejection("gopher_top_ngram", detail)


def _longest_run(tokens: Spans, size: int) -> int:
    """No run of so many words is longer than this, with single spaces between them; 0 if there is no such run."""
    return int((tokens.ends[size - 1 :] - tokens.starts[: 1 - size]).max(initial=-size)) + size


def _duplicate_ngrams(bounds: Gopher, measures: Measures) -> Iterator[Rejection]:
    tokens, length = measures.tokens, len(measures.text)
    shares = list(enumerate(bounds.max_duplicate_ngram_shares, start=SHORTEST_DUPLICATE_NGRAM))
    shares = [(size, allowed) for size, allowed in shares if allowed]
    for done, (size, allowed) in enumerate(shares):
        ngrams = ngram_hashes(tokens.hashes, size)
        covered = _covered_characters(tokens, later_copies(ngrams), size)
        if covered > allowed * length:
            share = _duplicate_ngram_characters(tokens, ngrams, size) / length
            if share > allowed:
                detail = f"{share:.3f} of the characters in repeated runs of {size} words, {allowed} allowed"
                yield Rejection("gopher_repeated_ngrams", detail)
        # A repeated longer run lies inside repeated shorter ones.
        if covered <= length * min((later for _, later in shares[done + 1 :]), default=0):
            return


def _covered_characters(tokens: Spans, starts: Positions, size: int) -> int:
    """Characters of the words in any of these runs: no fewer than those of runs without overlap."""
    if not len(starts):
        return 0
    edges = np.zeros(len(tokens) + 1, np.int64)
    edges[starts] += 1
    edges[starts + size] -= 1
    return int(tokens.lengths[np.cumsum(edges[:-1]) > 0].sum())


def _duplicate_ngram_characters(tokens: Spans, ngrams: Hashes, size: int) -> int:
    """Characters in the runs that repeat an earlier one, read from the left; what is counted once is passed over."""
    ends = np.concatenate(([0], np.cumsum(tokens.lengths)))
    weights = (ends[size:] - ends[: len(ngrams)]).tolist()
    seen: set[int] = set()
    characters = position = 0
    runs = ngrams.tolist()
    while position < len(runs):
        if runs[position] in seen:
            characters += weights[position]
            position += size
        else:
            seen.add(runs[position])
            position += 1
    return characters


@cache
def _stop_word_hashes() -> Hashes:
    return Measures(" ".join(STOP_WORDS)).tokens.hashes
