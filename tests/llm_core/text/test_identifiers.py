"""National numbers count with their checksum, and where any number could be one, with a word before it.

The numbers are the examples of python-stdnum's documentation.
"""

from __future__ import annotations

import pytest

from llm_core.text.identifiers import find_cards, find_ibans, find_ids
from llm_core.text.pii import digit_windows


def found(text: str) -> list[str]:
    return [text[start:end] for start, end in find_ids(text, digit_windows(text))]


@pytest.mark.parametrize(
    "number",
    [
        "536-90-4399",
        "2 95 10 99 126 111 93",
        "RCCMNL83S18D969H",
        "360426199101010071",
        "85.07.30-033.28",
        "390.533.447-05",
        "971013-9019902",
        "BOXW310820HNERXN09",
        "756.9217.0769.85",
    ],
)
def test_numbers_with_strong_checks_need_no_announcement(number: str) -> None:
    assert found(f"see {number}, please") == [number]
    assert found(f"x{number}") == []
    assert found(f"_{number}") == []
    assert found(f"{number}-1") == []


@pytest.mark.parametrize(
    ("announcement", "number"),
    [
        ("SSN", "536904399"),
        ("SSN", "536 90 4399"),
        ("N° INSEE", "295109912611193"),
        ("NHS number:", "943 476 5870"),
        ("National Insurance no", "QQ 12 34 56 C".replace("QQ", "AB")),
        ("Steuer-ID", "36 574 261 809"),
        ("DNI", "54362315K"),
        ("NIE", "X-2482300W"),
        ("BSN", "111222333"),
        ("Aadhaar", "2341 2341 2346"),
        ("PESEL", "44051401359"),
        ("Personnummer", "880320-0016"),
        ("henkilötunnus", "131052-308T"),
        ("fødselsnummer", "151086 95088"),
        ("social insurance number", "123-456-782"),
        ("TFN", "123 456 782"),
        ("マイナンバー", "6214 9832 0257"),
    ],
)
def test_numbers_that_could_be_anything_need_a_word_before_them(announcement: str, number: str) -> None:
    assert found(f"{announcement} {number} and so on") == [number]
    assert found(f"item {number} and so on") == []
    assert found(f"{number} {announcement}") == []


@pytest.mark.parametrize(
    "number", ["666-12-3456", "2 95 10 99 126 111 94", "360426199101010072", "390.533.447-06", "RCCMNL83S18D969I"]
)
def test_a_wrong_check_digit_is_no_identity(number: str) -> None:
    assert found(f"see {number}, please") == []


def test_an_announcement_is_a_word_and_near() -> None:
    assert found("cousin 123-456-782") == []
    assert found("The SIN was asked for on the first page of the form: 123-456-782") == []


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        ("4111111111111111", 1),
        ("4111 1111 1111 1111 12/04", 1),
        ("3782 822463 10005", 1),
        ("6011 1111 1111 1117", 1),
        ("3530 1113 3330 0000", 1),
        ("4111-1111 1111-1111", 0),
        ("9111 1111 1111 1110", 0),
        ("2000 0000 0000 0006", 0),
        ("41111111111111111", 0),
        ("1.4111111111111111", 0),
    ],
)
def test_cards_have_an_issuer_one_separator_and_a_check_digit(text: str, cards: int) -> None:
    assert len(list(find_cards(text, [(0, len(text))]))) == cards


@pytest.mark.parametrize(
    ("text", "iban"),
    [
        ("DE89370400440532013000", "DE89370400440532013000"),
        ("FR14 2004 1010 0505 0001 3M02 606 THANK YOU", "FR14 2004 1010 0505 0001 3M02 606"),
        ("GB29 NWBK 6016 1331 9268 19 SWIFT", "GB29 NWBK 6016 1331 9268 19"),
        ("AT61 1904 3002 3457 3201 BIC", "AT61 1904 3002 3457 3201"),
        ("DE88370400440532013000", ""),
        ("ZZ89370400440532013000", ""),
    ],
)
def test_an_account_has_its_countrys_length_and_ends_before_other_capitals(text: str, iban: str) -> None:
    spans = list(find_ibans(text, digit_windows(text)))
    assert "".join(text[start:end] for start, end in spans) == iban
