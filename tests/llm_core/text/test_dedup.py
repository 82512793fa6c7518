"""Copies are recognised, the first of them stays, and different texts are never taken for copies."""

from __future__ import annotations

import numpy as np
import pytest

from llm_core.text.dedup import Deduplicator, banding, shingle_hashes
from llm_core.text.document import Document

RNG = np.random.default_rng(5)
WORDS = [f"word{n}" for n in range(3000)]


def _document(name: str, text: str) -> Document:
    return Document(source=name, start=0, end=len(text), sha256="00" * 32, license="", text=text)


def _words(count: int) -> list[str]:
    return list(RNG.choice(WORDS, count))


def _deduplicator() -> Deduplicator:
    return Deduplicator(similarity=0.8, permutations=128)


def test_a_copy_that_differs_in_case_and_spaces_only_is_exact() -> None:
    seen = _deduplicator()
    assert seen.check(_document("a", "One two three four five six")) is None
    found = seen.check(_document("b", "one  TWO three\nfour five six "))
    assert found is not None
    assert (found.reason, found.detail) == ("duplicate", "same text as a[0:27]")


def test_a_near_copy_is_rejected_and_names_the_kept_one() -> None:
    seen = _deduplicator()
    text = _words(1000)
    assert seen.check(_document("first", " ".join(text))) is None
    text[500] = "changed"
    found = seen.check(_document("second", " ".join(text)))
    assert found is not None
    assert found.reason == "near_duplicate"
    assert "to first[0:" in found.detail


def test_a_rejected_copy_does_not_stand_for_later_ones() -> None:
    seen = _deduplicator()
    text = _words(400)
    chain = [" ".join(text)]
    for step in range(3):
        text[step * 20 : step * 20 + 12] = _words(12)
        chain.append(" ".join(text))
    reasons = [seen.check(_document(str(n), content)) for n, content in enumerate(chain)]
    details = [reason.detail for reason in reasons if reason is not None]
    assert details
    assert all("to 0[0:" in detail for detail in details)


@pytest.mark.parametrize("changed", [0.2, 0.5])
def test_texts_that_share_less_are_both_kept(changed: float) -> None:
    seen = _deduplicator()
    text = _words(1000)
    other = [word if RNG.random() > changed else "other" for word in text]
    assert seen.check(_document("a", " ".join(text))) is None
    assert seen.check(_document("b", " ".join(other))) is None


def test_two_hundred_different_texts_are_all_kept() -> None:
    seen = _deduplicator()
    assert all(seen.check(_document(str(n), " ".join(_words(120)))) is None for n in range(200))


def test_the_verdict_is_the_same_every_time() -> None:
    text = _words(300)
    near = [*text[:290], *_words(10)]
    verdicts = []
    for _ in range(2):
        seen = _deduplicator()
        seen.check(_document("a", " ".join(text)))
        verdicts.append(seen.check(_document("b", " ".join(near))))
    assert verdicts[0] == verdicts[1]


def test_the_estimate_is_close_to_the_true_similarity() -> None:
    text = _words(2000)
    other = [*text[:1800], *_words(200)]
    first, second = (set(shingle_hashes(" ".join(part)).tolist()) for part in (text, other))
    truth = len(first & second) / len(first | second)
    seen = Deduplicator(similarity=0.5, permutations=512)
    seen.check(_document("a", " ".join(text)))
    found = seen.check(_document("b", " ".join(other)))
    assert found is not None
    assert abs(float(found.detail.split()[1]) - truth) < 4 * 0.5 / 512**0.5


def test_shingles_are_runs_of_five_words_without_case_and_punctuation() -> None:
    assert (shingle_hashes("One, two; three. Four FIVE!") == shingle_hashes("one two three four five")).all()
    assert len(shingle_hashes("a b c d e f g")) == 3
    assert len(shingle_hashes("春眠不覺曉處")) == 2
    assert len(shingle_hashes("")) == 1
    assert (shingle_hashes("a b c d e") != shingle_hashes("e d c b a")).all()


@pytest.mark.parametrize("similarity", [0.1, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("permutations", [16, 128, 1024])
def test_the_index_finds_nearly_every_pair_at_the_threshold(similarity: float, permutations: int) -> None:
    bands, rows = banding(similarity, permutations)
    assert bands >= 2
    assert bands * rows <= permutations
    assert rows == 1 or 1 - (1 - similarity**rows) ** bands >= 0.99
    Deduplicator(similarity, permutations)
