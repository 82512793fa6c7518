"""A contract lets good data pass, and names every expectation that bad data break."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from pydantic import ValidationError

from llm_core.config import Clean, Contract
from llm_core.text.contract import ContractError, batch_table, breaches, check_contract, judge
from llm_core.text.drift import drift_of_last
from llm_core.text.profile import Profile, length_bin

NOTHING_EXPECTED = Contract()


def batch(name: str, kept: int = 80, size: int = 1000, language: str = "en", **rejected: int) -> Profile:
    return Profile(
        name,
        split_documents=Counter(train=kept),
        language_documents=Counter({language: kept} if kept else {}),
        lengths=Counter({length_bin(size): kept} if kept else {}),
        rejected=Counter(rejected),
    )


GOOD = [batch("1", too_short=20), batch("2", duplicate=20)]


def test_a_contract_that_expects_nothing_accepts_everything() -> None:
    odd = [batch("1", size=9, too_short=900), batch("2", size=9**7, language="zh", duplicate=900)]
    assert breaches(NOTHING_EXPECTED, odd) == []
    check_contract(NOTHING_EXPECTED, odd)


def test_data_that_stay_in_their_bounds_pass() -> None:
    contract = Contract(
        min_documents=160,
        max_rejected_share=0.2,
        max_duplicate_share=0.2,
        languages=("de", "en"),
        min_language_share=1,
        min_median_bytes=900,
        max_median_bytes=1100,
        max_drift=0.001,
    )
    assert breaches(contract, GOOD) == []


@pytest.mark.parametrize(
    ("contract", "bad", "message"),
    [
        (
            Contract(min_documents=400),
            batch("3"),
            "all batches: 240 documents kept, at least 400 expected; add sources",
        ),
        (
            Contract(max_rejected_share=0.3),
            batch("3", too_short=50, symbols=20, duplicate=50),
            "batch 3: records rejected, duplicates aside: 35.0%, at most 30.0% allowed (too_short 50, symbols 20); "
            "look at the data report and the quarantine, mend the source, or change clean.contract.max_rejected_share",
        ),
        (
            Contract(max_duplicate_share=0.3),
            batch("3", too_short=50, near_duplicate=20, duplicate=50),
            "batch 3: duplicates: 35.0%, at most 30.0% allowed (duplicate 50, near_duplicate 20)",
        ),
        (
            Contract(languages=("en", "de"), min_language_share=0.6),
            batch("3", language="zh"),
            "batch 3: documents in the expected languages: 0.0%, at least 60.0% needed (zh 80)",
        ),
        (
            Contract(languages=("en",), min_language_share=0.6),
            batch("3", language=""),
            "at least 60.0% needed (unknown 80)",
        ),
        (Contract(min_median_bytes=900), batch("3", size=50), "batch 3: median document: 50 bytes, at least 900 bytes"),
        (
            Contract(max_median_bytes=2000),
            batch("3", size=2**20),
            "at most 2,000 bytes allowed; look at the data report and the quarantine, see whether documents run",
        ),
        (
            Contract(max_drift=0.5),
            batch("3", size=9000),
            "batch 3: length drift from the earlier batches: 1.000, at most 0.500 allowed (chance alone: up to 0.194)",
        ),
        (
            Contract(max_drift=0.5),
            batch("3", language="zh"),
            "batch 3: language drift from the earlier batches: 1.000, at most 0.500 allowed",
        ),
    ],
)
def test_a_bad_batch_is_named_with_value_bound_and_remedy(contract: Contract, bad: Profile, message: str) -> None:
    found = breaches(contract, [*GOOD, bad])
    assert len(found) == 1 and message in found[0]


def test_all_breaches_are_told_at_once() -> None:
    contract = Contract(min_documents=500, max_rejected_share=0.1, max_median_bytes=100)
    with pytest.raises(
        ContractError, match=r"^the data contract is broken in 5 place\(s\):\n- all batches: 160"
    ) as told:
        check_contract(contract, GOOD)
    starts = [": ".join(line.split(": ")[:2]) for line in str(told.value).splitlines()[2:]]
    assert starts == [
        "- batch 1: records rejected, duplicates aside",
        "- batch 1: median document",
        "- batch 2: median document",
        "- all batches: median document",
    ]


def test_a_small_batch_is_judged_only_together_with_the_others() -> None:
    small = [batch(str(night), kept=1, too_short=1) for night in range(10)]
    alone = Contract(max_rejected_share=0.4, min_batch_documents=21)
    assert breaches(alone, small) == []
    together = breaches(Contract(max_rejected_share=0.4, min_batch_documents=20), small)
    assert len(together) == 1 and together[0].startswith("all batches: records rejected, duplicates aside: 50.0%")


def test_a_small_newest_batch_does_not_drift() -> None:
    contract = Contract(max_drift=0.5)
    assert breaches(contract, [*GOOD, batch("3", kept=29, size=9000)]) == []
    assert len(breaches(contract, [*GOOD, batch("3", kept=30, size=9000)])) == 1
    assert breaches(contract, [batch("1", kept=29), batch("2", size=9000)]) == []


def test_a_drift_that_chance_alone_shows_is_none() -> None:
    earlier = Profile(
        "1",
        split_documents=Counter(train=300),
        language_documents=Counter(en=150, de=150),
        lengths=Counter({length_bin(1000): 300}),
    )
    newest = replace(
        earlier,
        batch="2",
        split_documents=Counter(train=30),
        language_documents=Counter(en=20, de=10),
        lengths=Counter({length_bin(1000): 30}),
    )
    assert drift_of_last([earlier, newest])["languages"].distance > 0.14
    assert breaches(Contract(max_drift=0.1), [earlier, newest]) == []
    newest.language_documents = Counter(en=28, de=2)
    assert len(breaches(Contract(max_drift=0.1), [earlier, newest])) == 1


def test_a_few_documents_of_many_records_are_no_median_no_language_and_no_drift() -> None:
    duplicates = batch("3", kept=1, size=9, language="zh", duplicate=99)
    contract = Contract(max_drift=0.5, min_median_bytes=100, languages=("en",))
    assert breaches(contract, [*GOOD, duplicates]) == []


def test_only_the_newest_batch_is_judged_by_its_drift() -> None:
    moved = [batch("1"), batch("2", size=9000), batch("3", kept=160, size=1000), batch("4", kept=160)]
    assert breaches(Contract(max_drift=0.5), moved) == []


def test_a_single_batch_is_judged_once() -> None:
    assert list(batch_table(NOTHING_EXPECTED, [batch("1")]).index) == ["1"]
    assert list(batch_table(NOTHING_EXPECTED, GOOD).index) == ["1", "2", "all batches"]


def test_a_batch_that_kept_nothing_has_no_median_to_judge() -> None:
    nothing = batch("1", kept=0, too_short=100)
    contract = Contract(min_median_bytes=500, languages=("en",), max_rejected_share=0.5)
    found = breaches(contract, [nothing])
    assert ["at least 1 expected" in found[0], "100.0%" in found[1], len(found)] == [True, True, 2]


def test_no_batches_are_too_few_documents() -> None:
    assert breaches(NOTHING_EXPECTED, []) == [
        "all batches: 0 documents kept, at least 1 expected; add sources, relax the rules, "
        "or change clean.contract.min_documents"
    ]


def test_each_expectation_is_shown_with_its_worst_batch() -> None:
    contract = Contract(max_rejected_share=0.1, min_median_bytes=10)
    judged = {each.expectation.key: each for each in judge(contract, [batch("1", too_short=20), batch("2", size=300)])}
    rejected, median, drift = (judged[key] for key in ("max_rejected_share", "min_median_bytes", "max_drift"))
    assert (rejected.batch, rejected.value, rejected.bound, rejected.is_met) == ("1", 0.2, 0.1, False)
    assert (median.batch, median.bound, median.is_met) == ("2", 10, True)
    assert (drift.bound, drift.is_met, judged["min_language_share"].batch) == (None, True, "")
    assert judged["min_language_share"].bound is None and judge(Contract(languages=("en",)), [])[2].bound == 0.9


def test_contradictions_are_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(ValidationError, match="max_median_bytes 5 is under min_median_bytes 6"):
        Contract(min_median_bytes=6, max_median_bytes=5)
    with pytest.raises(ValidationError, match=r"contract\.languages needs rule language in rules"):
        Clean(contract=Contract(languages=("en",)))
    assert Clean(contract=Contract(languages=("en",)), rules=("language",)).contract.languages == ("en",)
