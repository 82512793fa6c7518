"""Wikitext becomes the text a reader of the page sees in its paragraphs, lists and headings.

Templates, tables, references, formulas, galleries, files, categories and links to other languages are left out.
What spans lines is cut out first by one linear scan; then `mwparserfromhell` reads line by line. Given a whole page
with constructs that are never closed, it would read the rest of the page again for each of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from llm_core.text.readers.records import without_surrogates

_HIDDEN_TAGS = "ref|references|gallery|math|chem|timeline|imagemap|score|graph|syntaxhighlight|source|inputbox|style"
_TOKEN = re.compile(
    r"(?P<comment><!--)|(?P<end_of_comment>-->)|(?P<braces>\{{2,3})|(?P<end_of_braces>\}{2,3})"
    r"|(?P<table>(?<![^\n])[ :]*\{\|)|(?P<end_of_table>(?<![^\n])[ :]*\|\}(?!\}))"
    rf"|(?P<single><(?:{_HIDDEN_TAGS})\b[^<>]*/>)|<(?P<tag>{_HIDDEN_TAGS})\b[^<>]*>|</(?P<end_of_tag>{_HIDDEN_TAGS})\s*>",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[\[<&=*#:;]|''|://|__|^[ -]")
_OPENINGS = re.compile(r"\[\[|\[(?=\w+:)|<[\w!]")
_CLOSINGS = re.compile(r"\]\]|\]|</\w|/>")
MAX_OPEN = 20
"""A line that opens this many links and tags more than it closes is only stripped of its marks."""
_LEFTOVERS = re.compile(r"</?[a-zA-Z][^<>\n]*>|<!--|-->|\[\[|\]\]|\{\{+|\}\}+|''+|__[A-Z]+__")
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(-[a-z-]{2,12})?:|simple:")
_EMPTY_BRACKETS = re.compile(r"[(\[][\s,;:]*[)\]]")
_HEADING = re.compile(r"(={1,6})[^=\n].*=\s*$")
_FILE_AND_CATEGORY = ("file", "image", "category", "media")


def plain_text(wikitext: str, hidden_namespaces: Collection[str] = ()) -> str:
    """Text of a page, without headings that have nothing below them.

    `hidden_namespaces` are the wiki's own names, in lower case, for files and categories.
    """
    hidden = tuple(f"{name}:" for name in {*_FILE_AND_CATEGORY, *hidden_namespaces})
    lines: list[str] = []
    below = 0  # level of the heading below, 0 at the page's end, 7 when a text is below: deeper than any heading
    for line in reversed(_without_hidden(wikitext).split("\n")):
        heading = _HEADING.match(line)
        level = len(heading[1]) if heading else 7
        text = _line_text(line, hidden) if not heading or level < below else ""
        below = level if text else below
        lines.append(text)
    return without_surrogates(re.sub(r"\n{3,}", "\n\n", "\n".join(reversed(lines))).strip("\n"))


def _without_hidden(text: str) -> str:
    """The text without what is never shown as prose; what does not close stays, for `_LEFTOVERS`."""
    spans: list[tuple[int, int]] = []
    for start, end in _hidden_spans(text):
        while spans and spans[-1][0] >= start:
            spans.pop()
        spans.append((start, end))
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _hidden_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where hidden constructs are, inner ones before those around them; a closing mark closes all since its opening."""
    marks: list[tuple[str, int]] = []
    num_open: Counter[str] = Counter()
    for token in _TOKEN.finditer(text):
        group = token.lastgroup or ""
        kind = group.removeprefix("end_of_")
        if kind == "tag":
            kind = token[group].lower()
        if group == "single":
            yield token.span()
        elif not group.startswith("end_of_"):
            marks.append((kind, token.start()))
            num_open[kind] += 1
        elif num_open[kind]:
            while True:
                opened, start = marks.pop()
                num_open[opened] -= 1
                if opened == kind:
                    break
            yield start, token.end()


def _line_text(line: str, hidden: tuple[str, ...]) -> str:
    if _MARKUP.search(line):
        if len(_OPENINGS.findall(line)) <= len(_CLOSINGS.findall(line)) + MAX_OPEN:
            line = _read_markup(line, hidden)
        line = _LEFTOVERS.sub("", line)
    return re.sub(r"[ \t\xa0]{2,}", " ", _EMPTY_BRACKETS.sub("", line)).strip()


def _read_markup(line: str, hidden: tuple[str, ...]) -> str:
    import mwparserfromhell

    return "".join(_shown(mwparserfromhell.parse(line, skip_style_tags=True).nodes, hidden))


def _shown(nodes: Iterable[Any], hidden: tuple[str, ...]) -> Iterator[str]:
    """What a reader sees of the nodes; their depth is bounded by the parser."""
    from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Text, Wikilink

    for node in nodes:
        if isinstance(node, Text):
            yield node.value
        elif isinstance(node, HTMLEntity):
            yield node.normalize()
        elif isinstance(node, Wikilink):
            title = str(node.title).strip()
            if not title.lower().startswith(hidden) and not _LANGUAGE_LINK.match(title):
                yield from _shown((node.title if node.text is None else node.text).nodes, hidden)
        elif isinstance(node, Heading):
            yield from _shown(node.title.nodes, hidden)
        elif isinstance(node, ExternalLink):
            yield from _shown(node.title.nodes if node.title else [] if node.brackets else node.url.nodes, hidden)
        elif isinstance(node, Tag):
            yield "\n" if str(node.tag).strip().lower() == "br" else ""
            yield from _shown(node.contents.nodes if node.contents else [], hidden)
