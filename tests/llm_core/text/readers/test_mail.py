"""Mails become their subject and body, whatever they are packed in."""

from __future__ import annotations

import base64
from email.message import EmailMessage

import pytest

from tests.llm_core.text.readers.reading import read, reasons, records, texts

SEPARATOR = b"From a@b.c Mon Jan  1 10:00:00 2024\n"


def _mail(body: bytes, *headers: str) -> bytes:
    return "\n".join(["Received: from a", "Subject: News", "MIME-Version: 1.0", *headers, "", ""]).encode() + body


def test_the_text_is_the_decoded_subject_and_body() -> None:
    message = EmailMessage()
    message["Received"], message["Subject"] = "from a", "Grüße aus\tKöln"
    message.set_content("Schöne Zeilen\n" * 3, cte="base64")
    assert texts(read(message.as_bytes())) == ["Grüße aus Köln\n\n" + "Schöne Zeilen\n" * 2 + "Schöne Zeilen"]


def test_plain_text_is_preferred_and_attachments_are_left_out() -> None:
    message = EmailMessage()
    message["Received"], message["Subject"] = "from a", "News"
    message.set_content("plain body")
    message.add_alternative("<p>html body</p>", subtype="html")
    message.add_attachment("attached text", filename="a.txt")
    message.add_attachment(b"\0\1", maintype="image", subtype="png", filename="a.png")
    assert texts(read(message.as_bytes())) == ["News\n\nplain body"]


def test_html_is_read_where_there_is_no_plain_text() -> None:
    raw = _mail(b"<html><body><p>Only <b>this</b> line.</p></body></html>", "Content-Type: text/html")
    assert texts(read(raw)) == ["News\n\nOnly this line."]
    blank = EmailMessage()
    blank["Received"] = "from a"
    blank.set_content(" \n")
    blank.add_alternative("<p>html body</p>", subtype="html")
    assert texts(read(blank.as_bytes())) == ["html body"]


@pytest.mark.parametrize(
    ("declared", "charset", "text"),
    [
        ("us-ascii", "cp1252", "schöne Grüße"),
        ("iso-8859-1", "utf-8", "schöne Grüße"),
        ("x-nonsense", "utf-8", "schöne Grüße"),
        ("koi8-r", "koi8_r", "привет"),
        ("iso-2022-jp", "iso2022_jp", "日本語"),
    ],
)
def test_a_wrong_charset_is_seen_through(declared: str, charset: str, text: str) -> None:
    raw = _mail(
        text.encode(charset), f"Content-Type: text/plain; charset={declared}", "Content-Transfer-Encoding: 8bit"
    )
    assert texts(read(raw)) == [f"News\n\n{text}"]


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"a\xff\xfe", ["Content-Transfer-Encoding: 8bit"], "undecodable"),
        (base64.b64encode(b"\x89PNG"), ["Content-Type: image/png"], "no_text"),
    ],
)
def test_a_mail_without_a_text_has_a_reason(body: bytes, headers: list[str], reason: str) -> None:
    assert reasons(read(_mail(body, *headers))) == [reason]


def test_what_has_no_headers_is_no_mail() -> None:
    assert reasons(read(b"\njust text", format="mail")) == ["not_mail"]
    assert reasons(read(b"Subject:\nReceived: x\n\n \n", format="mail")) == ["empty"]


def test_parts_nested_thousands_deep_are_survived() -> None:
    nested = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\nReceived: x\n\n--b%d\n" % (n, n) for n in range(2000)
    )
    for raw in (nested, b"Content-Type: message/rfc822\nReceived: x\n\n" * 5000):
        assert reasons(read(raw, format="mail")) == ["not_mail"]


def test_a_mailbox_is_split_at_its_separators_only() -> None:
    first = _mail(b"Body.\n\n>From here it is quoted\nFrom here it is not after a blank line\n\nFrom nobody\n\n")
    second = _mail(b"Second.\n")
    raw = SEPARATOR + first + SEPARATOR + second
    tiles = read(raw)
    assert records(raw, tiles) == [first, second]
    assert "\nFrom here it is quoted" in texts(tiles)[0]


def test_a_message_that_is_too_large_is_lost_alone() -> None:
    big = _mail(b"x" * 5000 + b"\n\n")
    raw = SEPARATOR + _mail(b"One.\n\n") + SEPARATOR + big + SEPARATOR + _mail(b"Three.\n")
    tiles = read(raw, max_document_bytes=1000)
    assert texts(tiles) == ["News\n\nOne.", "News\n\nThree."]
    assert (reasons(tiles), records(raw, tiles)[1]) == (["too_large"], big)
