"""Numbers that stand for one person: payment cards, bank accounts and national identity numbers, by their checksums."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

Span = tuple[int, int]
"""First character and the one after the last."""

# Part of no longer number or word, nor of one that goes on behind a dot, comma or hyphen.
BEFORE = r"(?<![0-9A-Za-z_])(?<![0-9][-.,])"
AFTER = r"(?![0-9A-Za-z])(?![-.][0-9])"
CONTEXT_LENGTH = 40

CARD = re.compile(
    rf"{BEFORE}(?:[2-6][0-9]{{15,18}}|[2-6][0-9]{{3}}([ -])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}"
    rf"|3[0-9]{{3}}([ -]?)[0-9]{{6}}\2[0-9]{{4,5}}){AFTER}"
)
# Issuer ranges and lengths of ISO/IEC 7812: Visa, Mastercard, American Express, Diners Club, Discover, JCB, UnionPay.
ISSUERS = re.compile(
    r"4[0-9]{15}(?:[0-9]{3})?|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}"
    r"|(?:6011|65[0-9]{2}|64[4-9][0-9]|352[89]|35[3-8][0-9])[0-9]{12}|62[0-9]{14,17}"
)
IBAN = re.compile(rf"{BEFORE}[A-Z]{{2}}[0-9]{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?(?![0-9A-Za-z])")


@dataclass(frozen=True)
class NationalId:
    """A kind of national number: its form, python-stdnum's module for its checksum, and words that announce it."""

    module: str
    form: str
    context: tuple[str, ...] = ()
    """In small letters; one of them must stand before the number. Short ones are whole words."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The form, not inside of a longer word or number."""
        return re.compile(f"{BEFORE}(?:{self.form}){AFTER}")

    @cached_property
    def announcement(self) -> re.Pattern[str]:
        """One of the words of the context; matches anywhere where there is none."""
        words = (word + r"\b" if len(word) < 5 and word.isascii() else word for word in self.context)
        return re.compile("|".join(rf"(?<![a-z]){word}" for word in words))

    def find(self, text: str, window: Span) -> Iterator[Span]:
        """Where in a window of the text there is such a number."""
        for match in self.pattern.finditer(text, *window):
            before = text[max(match.start() - CONTEXT_LENGTH, 0) : match.start()].lower()
            # Not every module takes the spaces out by itself.
            if self.announcement.search(before) and _is_valid(self.module, match[0].replace(" ", "")):
                yield match.span()


# Without a context: numbers whose form and checksum together occur by chance less than once in some thousand.
PLAIN_IDS = (
    NationalId("us.ssn", "[0-9]{3}-[0-9]{2}-[0-9]{4}"),
    NationalId("fr.nir", "[12](?: [0-9]{2}){2} [0-9][0-9AB](?: [0-9]{3}){2} [0-9]{2}"),
    NationalId("it.codicefiscale", "[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]"),
    NationalId("cn.ric", "[1-9][0-9]{16}[0-9Xx]"),
    NationalId("be.nn", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}"),
    NationalId("br.cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
    NationalId("kr.rrn", "[0-9]{6}-[0-9]{7}"),
    NationalId("mx.curp", "[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]"),
    NationalId("ch.ssn", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"),
)
ANNOUNCED_IDS = (
    NationalId("us.ssn", "[0-9]{3} ?[0-9]{2} ?[0-9]{4}", ("ssn", "social security")),
    NationalId("fr.nir", "[12][0-9]{5}[0-9AB][0-9]{8}", ("insee", "nir", "sécurité sociale", "nss")),
    NationalId("gb.nhs", "[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", ("nhs",)),
    # No checksum exists: the prefixes are those of HMRC's manual, NIM39110.
    NationalId("", "[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]", ("national insurance", "nino")),
    NationalId("de.idnr", "[1-9][0-9](?: ?[0-9]{3}){3}", ("steuer", "identifikationsnummer", "idnr", "id-nr")),
    NationalId("es.dni", "[0-9]{8}-?[A-Z]", ("dni", "nif", "identidad")),
    NationalId("es.nie", "[XYZ]-?[0-9]{7}-?[A-Z]", ("nie", "identidad", "extranjero")),
    NationalId("nl.bsn", "[0-9]{9}", ("bsn", "burgerservicen", "sofin")),
    NationalId("in_.aadhaar", "[2-9][0-9]{3} ?[0-9]{4} ?[0-9]{4}", ("aadhaar", "आधार")),
    NationalId("pl.pesel", "[0-9]{11}", ("pesel",)),
    NationalId("se.personnummer", "(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}", ("personnummer", "personnr", "persnr")),
    NationalId("fi.hetu", "[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]", ("henkilötunnu", "hetu", "personbeteckning")),
    NationalId("no.fodselsnummer", "[0-9]{6} ?[0-9]{5}", ("fødselsn", "fodselsn", "personnummer")),
    NationalId("ca.sin", "[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", ("sin", "social insurance")),
    NationalId("au.tfn", "[0-9]{3}(?: ?[0-9]{3}){2}", ("tfn", "tax file")),
    NationalId("jp.in_", "[0-9]{4}(?: ?[0-9]{4}){2}", ("マイナンバー", "個人番号", "my number")),
)
CONTEXT_WORDS = frozenset(word for kind in ANNOUNCED_IDS for word in kind.context)


def find_cards(text: str, windows: list[Span]) -> Iterator[Span]:
    """Payment cards: an issuer's range and length, and Luhn's check digit."""
    for window in windows:
        for match in CARD.finditer(text, *window):
            digits = re.sub("[ -]", "", match[0])
            if ISSUERS.fullmatch(digits) and _is_valid("luhn", digits):
                yield match.span()


def find_ibans(text: str, windows: list[Span]) -> Iterator[Span]:
    """Bank accounts (ISO 13616): a country's length and the check digits; capitals that follow are not part of it."""
    for window in windows:
        for match in IBAN.finditer(text, *window):
            start, end = match.span()
            while end - start >= 15:
                if _is_valid("iban", text[start:end]):
                    yield start, end
                    break
                end = text.rfind(" ", start, end)


def find_ids(text: str, windows: list[Span]) -> Iterator[Span]:
    """National identity numbers, those that could be any number only where a word announces them."""
    for start, end in windows:
        around = text[max(start - CONTEXT_LENGTH, 0) : end].lower()
        announced = any(word in around for word in CONTEXT_WORDS)
        for kind in (*PLAIN_IDS, *ANNOUNCED_IDS) if announced else PLAIN_IDS:
            yield from kind.find(text, (start, end))


def _is_valid(module: str, number: str) -> bool:
    if not module:
        return True
    return bool(import_module(f"stdnum.{module}").is_valid(number))
