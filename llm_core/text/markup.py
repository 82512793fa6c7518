"""Rules markup, boilerplate and punctuation: what is around a page's text is taken out, and prose is left alone.

All patterns are linear in the length of the text: what they run over is bounded, or ends where the next could begin.
"""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

from llm_core.config import Clean
from llm_core.config.data import MarkupKind
from llm_core.text.document import Document, Rejection
from llm_core.text.pii import PLACEHOLDERS

Pair = tuple[re.Pattern[str], re.Pattern[str]]


def _pair(opening: str, closing: str) -> Pair:
    flags = re.IGNORECASE | re.MULTILINE
    return re.compile(opening, flags), re.compile(closing, flags)


# Code keeps its markup: a line that opens or closes a fenced block of CommonMark.
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)

BLOCK_TAGS = frozenset(
    "address article aside blockquote body br caption center dd details div dl dt fieldset figcaption figure"  # noqa: SIM905
    " footer form h1 h2 h3 h4 h5 h6 head header hr html li link main meta nav ol option p pre section select summary"
    " table tbody td tfoot th thead title tr ul".split()
)
INLINE_TAGS = frozenset(
    "a abbr acronym audio b bdi bdo big button cite code data del dfn em embed font i iframe img input ins kbd label"  # noqa: SIM905
    " mark nobr object param picture q rp rt ruby s samp small source span strike strong sub sup svg time tt u var"
    " video wbr".split()
)
UNCLOSED_TAGS = frozenset(("body", "br", "dd", "dt", "head", "hr", "html", "li", "nobr", "p", "td", "th", "tr", "wbr"))
# Each attribute has a value, but for the few that never have one: "if a <b and c> d" is no tag.
ATTRIBUTE = (
    r"\s+(?:[\w:.-]+\s*=\s*(?:\"[^\"<]{0,5000}\"|'[^'<]{0,5000}'|[^\s\"'<>]+)|checked|disabled|nowrap|noshade|hidden)"
)
TAG = re.compile(rf"<(?P<slash>/?)(?P<name>[a-z][a-z0-9]*)(?P<more>(?:{ATTRIBUTE}){{0,50}}\s*/?)>", re.IGNORECASE)
CLOSING_TAG = re.compile("</([a-z][a-z0-9]*)")
DOCTYPE = re.compile("<!doctype[^<>]{0,500}>", re.IGNORECASE)
HTML_PAIRS = (
    _pair("<!--", "-->"),
    *(_pair(rf"<{name}\b[^<>]{{0,5000}}>", rf"</{name}\s*>") for name in ("script", "style", "noscript")),
)
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

# Control and format characters that an entity may stand for: the joiners spell Persian, the Indic scripts and emoji.
VISIBLE = frozenset("\n\t\u200c\u200d")

TARGET = r"\((?:[^()\s]|\([^()\s]{0,200}\)){0,2000}(?:\s+(?:\"[^\"\n]{0,300}\"|'[^'\n]{0,300}'))?\)"
IMAGE = re.compile(rf"!\[[^\[\]\n]{{0,500}}\]{TARGET}|\[!\[[^\[\]\n]{{0,500}}\]{TARGET}\]{TARGET}")
LINK = re.compile(rf"\[([^\[\]\n]{{1,500}})\]{TARGET}")
LINK_TARGETS = re.compile(r"^ {0,3}\[[^\[\]\n]{1,200}\]:[ \t]+(?:https?://|mailto:|/|#|\.{1,2}/)\S*.*\n?", re.MULTILINE)
HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(?=\S)", re.MULTILINE)
BOLD = re.compile(r"(?<![A-Za-z0-9*_])\*\*(?=[^\s*])([^*\n]{1,300}?)(?<=\S)\*\*(?![A-Za-z0-9*_])")

WIKI_PAIRS = (
    *(_pair(rf"<{name}\b(?:[^<>/]|/(?!>)){{0,500}}>", rf"</{name}\s*>") for name in ("ref", "gallery", "timeline")),
    _pair(r"^[ \t:]*\{\|", r"^[ \t:]*\|\}"),
)
WIKI_MARKS = re.compile(r"<ref\b[^<>]{0,500}/>|__(?:(?:NO|FORCE)?TOC|NOEDITSECTION)__")
WIKI_FILE = re.compile(
    r"\[\[(?:file|image|category|datei|bild|kategorie|文件|分类)\s{0,3}:"
    r"[^\[\]\n]{0,2000}+(?>(?:\[\[[^\[\]\n]{0,300}+\]\][^\[\]\n]{0,2000}+){0,20})\]\]",
    re.IGNORECASE,
)
TEMPLATE = re.compile(r"\{\{[^{}]{0,20000}\}\}")
WIKI_LINK = re.compile(r"\[\[(?:[^\[\]|\n]{1,300}\|)?([^\[\]|\n]{1,300})\]\]")
EXTERNAL_LINK = re.compile(r"\[https?://[^\s\[\]]{1,2000}(?:[ \t]{1,9}([^\[\]\n]{0,500}))?\](?!\()")
WIKI_HEADING = re.compile(r"^={2,6}[ \t]{0,9}([^=\n]{1,200}?)[ \t]{0,9}={2,6}[ \t]{0,9}$", re.MULTILINE)
# Behind a letter or figure they are primes, as in f''(x).
QUOTES = re.compile(r"(?<!['A-Za-z0-9])('{5}|'{2,3})(?=[^\s'])([^'\n](?:[^\n]{0,200}?[^\s'])??)\1(?!')")
MAX_NESTING = 8

LAST_OF_PLANE = 0xFFFF

SEPARATORS = "-=_*~#+."


def strip_markup(document: Document, cfg: Clean) -> Document:
    """Take out the markup that a reader left in: of the kinds in clean.markup.kinds, outside of fenced code.

    Only HTML's own element names are tags, so `<EMAIL>`, `a < b` and `List<T>` stay. Entities are decoded once, after
    the tags, so that ``&lt;b&gt;`` in a text about HTML becomes ``<b>``; hidden characters are not let in.
    """
    text = document.text
    done = 0
    pieces: list[str] = []
    for start, end in _fenced(text) if "```" in text or "~~~" in text else ():
        pieces += _strip_kinds(text[done:start], cfg), text[start:end]
        done = end
    return _with_text(document, "".join((*pieces, _strip_kinds(text[done:], cfg))))


def drop_boilerplate(document: Document, cfg: Clean) -> Document | Rejection:
    """Drop lines of navigation, sharing, cookies and copyright, and of separators; reject a text of nothing else."""
    is_boilerplate = _line_test(cfg.boilerplate.patterns).fullmatch
    longest, shortest = cfg.boilerplate.max_line_length, cfg.boilerplate.separator_length

    def belongs(line: str) -> bool:
        mark = line.strip()
        if len(mark) >= shortest and not mark.strip(SEPARATORS + " \t"):
            return False
        return not mark or len(mark) > longest or not is_boilerplate(mark)

    lines = document.text.split("\n")
    kept = list(filter(belongs, lines))
    if len(kept) == len(lines):
        return document
    if not any(map(str.strip, kept)):
        return Rejection("boilerplate", f"all of its {len(lines)} lines are navigation, notices or separators")
    return replace(document, text="\n".join(kept))


def strip_punctuation(document: Document, cfg: Clean) -> Document:
    """Put a space for each run of punctuation, for classic word models; white space in lines is single afterwards.

    Points and commas between digits, apostrophes inside words and the placeholders of rule pii stay.
    """
    text = _punctuation().sub(" ", document.text)
    text = re.sub(r"[^\S\n][^\S\n]+", " ", text)
    return _with_text(document, text.replace(" \n", "\n").replace("\n ", "\n").strip(" "))


def _strip_kinds(text: str, cfg: Clean) -> str:
    # Wiki first, since what is in <ref> goes with it; HTML last, since what it decodes is text.
    for kind, strip in STRIPPERS.items():
        if kind in cfg.markup.kinds:
            text = strip(text)
    return text


def _fenced(text: str) -> Iterator[tuple[int, int]]:
    """Where blocks of code begin and end; one that is left open goes to the end of the text."""
    start, opening = 0, ""
    for line in FENCE.finditer(text):
        if not opening:
            start, opening = line.start(), line[1]
        elif line[1].startswith(opening) and not line[2].strip():
            yield start, line.end()
            opening = ""
    if opening:
        yield start, len(text)


def _cut(text: str, pairs: Iterable[Pair]) -> str:
    """Without what is between an opening and the next closing mark; an opening mark that is never closed stays."""
    for opening, closing in pairs:
        pieces: list[str] = []
        done = 0
        for begin in opening.finditer(text):
            if begin.start() < done:
                continue
            end = closing.search(text, begin.end())
            if end is None:
                break
            pieces.append(text[done : begin.start()])
            done = end.end()
        text = "".join((*pieces, text[done:])) if done else text
    return text


def _strip_wiki(text: str) -> str:
    if "<" in text or "{|" in text or "__" in text:
        text = WIKI_MARKS.sub("", _cut(text, WIKI_PAIRS))
    if "{{" in text:
        text = _strip_templates(text)
    if "[[" in text:
        text = WIKI_LINK.sub(r"\1", WIKI_FILE.sub("", text))
    if "[http" in text:
        text = EXTERNAL_LINK.sub(lambda link: link[1] or "", text)
    if "==" in text:
        text = WIKI_HEADING.sub(r"\1", text)
    # ``LaTeX's quotes'' also have two apostrophes.
    return QUOTES.sub(r"\2", text) if "''" in text and "``" not in text else text


def _strip_templates(text: str) -> str:
    """From the innermost outwards."""
    for _ in range(MAX_NESTING):
        text, count = TEMPLATE.subn("", text)
        if not count:
            break
    return text


def _strip_markdown(text: str) -> str:
    if "](" in text:
        text = LINK.sub(r"\1", IMAGE.sub("", text))
    if "]:" in text:
        text = LINK_TARGETS.sub("", text)
    if "#" in text:
        text = HEADING.sub("", text)
    return BOLD.sub(r"\1", text) if "**" in text else text


def _strip_html(text: str) -> str:
    if "<" in text:
        text = DOCTYPE.sub("", _cut(text, HTML_PAIRS))
        closed = UNCLOSED_TAGS.union(CLOSING_TAG.findall(text.lower()))
        text = TAG.sub(lambda tag: _without_tag(tag, closed), text)
    return ENTITY.sub(_decoded, text) if "&" in text else text


def _without_tag(tag: re.Match[str], closed: frozenset[str]) -> str:
    """What to put for a tag; <object> in a manual's "show <object>" has neither attributes nor an end, and stays."""
    name = tag["name"].lower()
    if not tag["more"] and not tag["slash"] and name not in closed:
        return tag[0]
    if name in BLOCK_TAGS:
        return "\n"
    return "" if name in INLINE_TAGS else tag[0]


def _decoded(entity: re.Match[str]) -> str:
    character = html.unescape(entity[0])
    hidden = unicodedata.category(character[:1] or "\0") in ("Cc", "Cf", "Cs") and character not in VISIBLE
    return "" if hidden else character


@lru_cache(maxsize=16)
def _line_test(patterns: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(f"(?:{pattern})" for pattern in patterns) or "(?!)"
    return re.compile(rf"\W*(?:{either})\W*", re.IGNORECASE)


@lru_cache(maxsize=1)
def _punctuation() -> re.Pattern[str]:
    """One mark of Unicode's punctuation or of the symbols on an American keyboard, unless it stays.

    Of the Basic Multilingual Plane only: sre tests a set with more than that item by item, twenty times as slowly.
    """
    marks = {chr(code) for code in range(LAST_OF_PLANE + 1) if unicodedata.category(chr(code))[0] == "P"}
    listed = "".join(re.escape(mark) for mark in sorted(marks | set(string.punctuation)))
    opened = "|".join(mark[1:] for mark in PLACEHOLDERS.values())
    closed = "".join(f"(?<!{mark})" for mark in PLACEHOLDERS.values())
    return re.compile(rf"[{listed}](?!(?<=\d[.,])\d|(?<=[^\W_]['’])[^\W_]|(?<=<)(?:{opened})){closed}")


def _with_text(document: Document, text: str) -> Document:
    return document if text == document.text else replace(document, text=text)


STRIPPERS: dict[MarkupKind, Callable[[str], str]] = {
    "wiki": _strip_wiki,
    "markdown": _strip_markdown,
    "html": _strip_html,
}
