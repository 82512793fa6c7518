"""Phone numbers are found in the forms that people write them in; numbers come from ranges set aside for fiction."""

from __future__ import annotations

import pytest

from llm_core.text.phones import find_phones

REGIONS = ("US", "GB", "DE", "FR", "CN")


def found(text: str, regions: tuple[str, ...] = REGIONS) -> list[str]:
    return sorted({text[start:end] for start, end in find_phones(text, [(0, len(text))], regions)})


@pytest.mark.parametrize(
    "number",
    [
        "(212) 555-0134",
        "1(888) 555-0134",
        "212.555.0134",
        "+1 212 555 0134",
        "+44 (0)20 7946 0018",
        "0044 20 7946 0018",
        "+86 138 0013 8000",
        "030/1234567",
        "(020) 7946 0018",
        "01 42 68 53 00",
        "010-62345678",
        "138-0013-8000",
    ],
)
def test_a_number_in_a_common_form_is_found(number: str) -> None:
    assert found(f"x {number}, or so") == [number]


@pytest.mark.parametrize("word", ["Tel.", "phone: ", "Fax number ", "call us at ", "Mobile #", "电话：", "手机号码 "])
def test_after_an_announcement_any_form_will_do(word: str) -> None:
    assert found(f"{word}2125550134.") == ["2125550134"]
    assert found("item 2125550134.") == []


def test_the_international_prefix_is_known_in_all_regions() -> None:
    assert found("x 0044 20 7946 0018", ("US",)) == ["0044 20 7946 0018"]


def test_after_an_announcement_the_plus_sign_may_be_missing() -> None:
    assert found("Tel: 27 83 750 9598", ("US",)) == ["27 83 750 9598"]
    assert found("item 27 83 750 9598", ("US",)) == []
    assert found("Tel: 999 1 677 1234") == []


@pytest.mark.parametrize(
    "text",
    [
        "tel 12/10/2002",
        "phone 2001-10-11 10:00",
        "12-10-2002",
        "+2002-08-21 16:02",
        "1890-1895 1896",
        "(199) 555-0134",
        "212-055-0134",
        "212-555-0134-77",
        "7212-555-0134",
        "+999 123 456 789",
        "call 911",
        "x.org/1982/0720/072033456.html",
        "doi 10.1128/AEM.02812-0712",
        "table 051-0001",
        "part 096400-1030",
        "Fifth Floor, Boston, MA 02110-1301 USA.",
        "the clause at DFARS 252.227-7013 (c)",
        "0,00490825806749606-1",
        "0.25 0.50 0.75 1.00",
    ],
)
def test_dates_and_numbers_that_nobody_has_are_left_alone(text: str) -> None:
    assert found(text) == []
