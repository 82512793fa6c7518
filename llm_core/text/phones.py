"""Phone numbers: cheap shapes find candidates, Google's numbering plans (the phonenumbers library) decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from llm_core.text.identifiers import AFTER, BEFORE, Span

SHAPES = re.compile(
    BEFORE
    + "(?:"
    + "|".join(
        (
            # With a country code: +49 (0)30 12345678, 001 212 555 0100.
            r"(?:\+|00) ?[1-9][0-9]{0,2}[ .\-/]{0,2}(?:\(0?[0-9]{0,5}\)[ .\-/]{0,2})?[0-9](?:[ .\-/]{0,2}[0-9]){4,12}",
            # North America: (212) 555-0100, 1-212-555-0100, 212.555.0100; 252.227-7013 is a clause of a regulation.
            r"(?:1[ .-]?(?=\()|1[ .-])?(?![0-9]{3}\.[0-9]{3}-)"
            r"(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[ .-][0-9]{4}",
            # With a trunk zero: 01 23 45 67 89, 030/123456, (020) 7946 0958, 010-12345678. More pairs are a list.
            r"(?<!\b[0-9]{2}[ .-])0[1-9](?:[ .-][0-9]{2}){4}(?![ .-][0-9]{2}\b)",
            # Nine digits at least, and no part of the address of a page.
            r"(?<![/=.])(?=(?:[^0-9]{0,3}[0-9]){9})\(?0[1-9][0-9]{1,3}\)?(?:[ .\-/]{1,3}[0-9]{2,8}){1,4}",
            # Chinese mobile phones: 138-0013-8000.
            r"1[3-9][0-9]-[0-9]{4}-[0-9]{4}",
        )
    )
    + ")"
    + AFTER
)
ANNOUNCED = re.compile(r"[0-9(+][0-9 ().\-/]{5,18}[0-9]" + AFTER)
ANNOUNCEMENT = re.compile(
    r"(?:\b(?:tele)?(?:phone|fon|fax)|\b(?:tele?f?|tlf|mob(?:ile)?|gsm|cell|call|dial|voice|hotline|handy|ph)|电话|手机|传真|热线|致电|拨打|联系方式)"
    r"(?: ?(?:number|nummer|no|nr|us|us at|at|on|号码?))?[\s.:#=(：]{0,4}\Z",
    re.IGNORECASE,
)
DATE = re.compile(r"[0-9]{1,4}([./-])[0-9]{1,2}\1[0-9]{1,4}(?: [0-9]{2,4})?|[0-9]{4} ?[-/] ?[0-9]{4}")
# Of the United States with four more digits; those of New England begin with a zero.
ZIP_CODE = re.compile("[0-9]{5}-[0-9]{4}")
ANNOUNCEMENT_LENGTH = 30


def find_phones(text: str, windows: list[Span], regions: tuple[str, ...]) -> Iterator[Span]:
    """Numbers that exist in the numbering plan of their country code or, without one, of one of the regions."""
    for window in windows:
        shaped = set()
        for match in SHAPES.finditer(text, *window):
            if not ZIP_CODE.fullmatch(match[0]) and _exists(match[0], regions):
                shaped.add(match.start())
                yield match.span()
        for match in ANNOUNCED.finditer(text, *window):
            before = text[max(match.start() - ANNOUNCEMENT_LENGTH, 0) : match.start()]
            if match.start() in shaped or not ANNOUNCEMENT.search(before) or DATE.fullmatch(match[0]):
                continue
            # After "Tel." many leave the plus sign of the country code out.
            if _exists(match[0], regions) or _exists("+" + match[0].lstrip("+"), ()):
                yield match.span()


@lru_cache(maxsize=4096)
def _exists(number: str, regions: tuple[str, ...]) -> bool:
    """About 0.1 ms for each region that is asked."""
    from phonenumbers import NumberParseException, is_valid_number, parse

    number = re.sub(r"^00 ?", "+", number)
    for region in (None,) if number.startswith("+") else regions:
        try:
            if is_valid_number(parse(number, region)):
                return True
        except NumberParseException:
            continue
    return False
