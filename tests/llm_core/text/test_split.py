"""A document's split follows from its raw content alone."""

from __future__ import annotations

import hashlib

from llm_core.text.split import SPLITS, split_of

HASHES = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(20_000)]


def test_shares_are_kept_closely() -> None:
    splits = [split_of(digest, 0.14, 0.02) for digest in HASHES]
    for split, share in zip(SPLITS, (0.84, 0.02, 0.14), strict=True):
        assert abs(splits.count(split) / len(HASHES) - share) < 0.01


def test_these_documents_never_move() -> None:
    assert [split_of(digest, 0.2, 0.2) for digest in HASHES[:10]] == [
        "train",
        "train",
        "validation",
        "train",
        "validation",
        "train",
        "train",
        "train",
        "validation",
        "validation",
    ]


def test_a_larger_test_share_only_adds_documents() -> None:
    small, large = ({digest for digest in HASHES if split_of(digest, share, 0.02) == "test"} for share in (0.1, 0.2))
    assert small < large


def test_the_validation_share_moves_no_test_document() -> None:
    for digest in HASHES[:2000]:
        assert (split_of(digest, 0.1, 0.0) == "test") == (split_of(digest, 0.1, 0.5) == "test")


def test_without_shares_everything_trains() -> None:
    assert {split_of(digest, 0.0, 0.0) for digest in HASHES} == {"train"}
