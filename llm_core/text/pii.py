"""Rule pii: personal data and secrets are replaced by typed placeholders such as <EMAIL>.

Each kind has a detector that first looks for what all its cases share (an @, digits in a row, a known prefix) with a
fast search, and only there with precise patterns, checksums and libraries. Precision goes first: a number is replaced
when its checksum or its form leaves little doubt, or when a word before it says what it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from llm_core.config import Clean, Pii
from llm_core.config.data import PiiKind
from llm_core.text.credentials import find_keys
from llm_core.text.document import Document
from llm_core.text.identifiers import Span, find_cards, find_ibans, find_ids
from llm_core.text.phones import find_phones

PLACEHOLDERS: dict[PiiKind, str] = {
    "key": "<KEY>",
    "email": "<EMAIL>",
    "iban": "<IBAN>",
    "card": "<CARD>",
    "id": "<ID>",
    "ip": "<IP>",
    "phone": "<PHONE>",
}
"""What replaces each kind; where two overlap, the earlier kind wins. None is an HTML tag, so rule markup keeps them."""

LATIN = "A-Za-z0-9\u00c0-\u024f"
DOMAIN = re.compile(rf"@(?:[{LATIN}-]{{1,63}}\.)+([A-Za-z]{{2,24}})(?![{LATIN}])")
LOCAL_PART = re.compile(rf"[{LATIN}_](?:[{LATIN}._%+'-]{{0,62}}[{LATIN}_+-])?\Z")
# File names such as logo@2x.png.
FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "json", "xml", "html", "pdf"))

NUMBER = re.compile(r"[+(0-9][0-9 ().\-/+\u2013\u00a0]{6,}")
# The lookbehind comes second: sre skips fast to what a pattern begins with, when that is a set of characters.
CODE = re.compile(r"[0-9](?<=[A-Z].)[0-9](?=[A-Z0-9 ]{5})")
MIN_DIGITS = 4
# How far an identifier may begin before its first digits in a row, and go on behind the last.
LEAD, TAIL = 8, 42

IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:\.[0-9.]{5,13})?(?![\w:])")
# A digit and a group of three characters tell an address from a time and from Perl's or C++'s a::b.
UNLIKE_CODE = re.compile("(?=.*[0-9]).*[0-9A-Fa-f]{3}")
VERSION = re.compile(r"(?:v|vers|version|release|rev|build|section|chapter|§|版本|第)[\s.:#(]{0,3}\Z", re.IGNORECASE)
ADDRESS = re.compile(r"(?:\b(?:ip|from|via|ping)|address|host|server|://|[\[@])\W{0,3}(?:is |was )?\Z", re.IGNORECASE)


def redact_pii(document: Document, cfg: Clean) -> Document:
    """Replace what clean.pii.kinds names, and note kinds and numbers in `redactions`, as in ``email=2 phone=1``."""
    spans = find_pii(document.text, cfg.pii)
    if not spans:
        return document
    counts = Counter(dict(_counts(document.redactions)))
    counts.update(kind for _, _, kind in spans)
    redactions = " ".join(f"{kind}={count}" for kind, count in sorted(counts.items()))
    return replace(document, text=_replaced(document.text, spans), redactions=redactions)


def find_pii(text: str, cfg: Pii) -> list[tuple[int, int, PiiKind]]:
    """Start, end and kind of everything that the kinds of the recipe name, in order and without overlap."""
    windows = digit_windows(text)
    found = [
        (start, end, kind)
        for kind, detect in DETECTORS.items()
        if kind in cfg.kinds
        for start, end in detect(text, windows, cfg)
    ]
    rank = {kind: number for number, kind in enumerate(PLACEHOLDERS)}
    kept: list[tuple[int, int, PiiKind]] = []
    for span in sorted(found, key=lambda span: (span[0], rank[span[2]], -span[1])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
        elif rank[span[2]] < rank[kept[-1][2]]:
            kept[-1] = span
    return kept


def digit_windows(text: str) -> list[Span]:
    """The parts of a text around digits in a row, where alone numbers and codes of persons can be."""
    starts = [(match.start(), match.end()) for match in NUMBER.finditer(text) if _num_digits(match[0]) >= MIN_DIGITS]
    starts += (match.span() for match in CODE.finditer(text))
    windows: list[Span] = []
    for start, end in sorted(starts):
        start, end = max(start - LEAD, 0), min(end + TAIL, len(text))
        if windows and start <= windows[-1][1]:
            windows[-1] = windows[-1][0], max(end, windows[-1][1])
        else:
            windows.append((start, end))
    return windows


def find_emails(text: str) -> Iterator[Span]:
    """Addresses with a top-level domain; names of files, and names of hosts without one, are left alone."""
    for domain in DOMAIN.finditer(text):
        local = LOCAL_PART.search(text, max(domain.start() - 64, 0), domain.start())
        if local and domain[1].lower() not in FILE_ENDINGS:
            yield local.start(), domain.end()


def find_ips(text: str, windows: list[Span], cfg: Pii) -> Iterator[Span]:
    """Addresses of IPv4 and IPv6, the public ones only unless the recipe says otherwise.

    Four numbers with dots between them are a version, revision or section after such a word; and where the first is
    below 10, unless "address", "from", :// or the like stand before them. "kernel 11.4.0.25" is taken for an address.
    """
    for window in windows:
        for match in IPV4.finditer(text, *window):
            if _is_ip(IPv4Address, match[0], cfg) and not _is_version(text, match):
                yield match.span()
    for colons in COLONS.finditer(text):
        found = IPV6.search(text, max(colons.start() - 5, 0), colons.end() + 40)
        if found and UNLIKE_CODE.match(found[0]) and _is_ip(IPv6Address, found[0], cfg):
            yield found.span()


def _is_ip(kind: type[IPv4Address] | type[IPv6Address], address: str, cfg: Pii) -> bool:
    try:
        known = kind(address)
    except AddressValueError:
        return False
    return cfg.private_addresses or (known.is_global and not known.is_multicast)


def _is_version(text: str, match: re.Match[str]) -> bool:
    before = text[max(match.start() - 20, 0) : match.start()]
    return bool(VERSION.search(before)) or (match[0][1] == "." and not ADDRESS.search(before))


def _num_digits(text: str) -> int:
    return sum(map(str.isdecimal, text))


def _replaced(text: str, spans: list[tuple[int, int, PiiKind]]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end, kind in spans:
        pieces += text[done:start], PLACEHOLDERS[kind]
        done = end
    return "".join((*pieces, text[done:]))


def _counts(redactions: str) -> Iterator[tuple[str, int]]:
    for entry in redactions.split():
        kind, _, count = entry.partition("=")
        yield kind, int(count)


DETECTORS: dict[PiiKind, Callable[[str, list[Span], Pii], Iterator[Span]]] = {
    "key": lambda text, windows, cfg: find_keys(text),
    "email": lambda text, windows, cfg: find_emails(text),
    "iban": lambda text, windows, cfg: find_ibans(text, windows),
    "card": lambda text, windows, cfg: find_cards(text, windows),
    "id": lambda text, windows, cfg: find_ids(text, windows),
    "ip": find_ips,
    "phone": lambda text, windows, cfg: find_phones(text, windows, cfg.phone_regions),
}
