"""A profile counts what passes, merges to the same whole in any order, and refuses what is not one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.document import CleanDocument, Rejection
from llm_core.text.profile import (
    Profile,
    ProfileError,
    bin_start,
    length_bin,
    read_profiles,
    total,
    write_profiles,
)

LENGTHS = st.integers(0, 2**40)


def document(num_bytes: int = 10, **values: Any) -> CleanDocument:
    fields = {"source": "a.txt", "start": 0, "end": 12, "sha256": "00", "license": "free", "text": "x" * 9}
    return CleanDocument(**{**fields, "split": "train", "num_bytes": num_bytes, "language": "en", **values})


documents = st.builds(
    document,
    num_bytes=LENGTHS,
    split=st.sampled_from(["train", "validation", "test"]),
    language=st.sampled_from(["", "en", "zh"]),
    redactions=st.sampled_from(["", "email=2", "email=1 phone=3"]),
    end=st.integers(0, 99),
)
rejections = st.tuples(
    st.builds(Rejection, st.sampled_from(["duplicate", "near_duplicate", "too_short"]), st.just("")),
    st.integers(0, 99),
    st.sampled_from([(), ("mmlu",), ("mmlu", "piqa")]),
)
records = st.lists(documents | rejections, max_size=30)


def profile_of(found: Sequence[Any], batch: str = "night 1") -> Profile:
    profile = Profile(batch)
    for record in found:
        if isinstance(record, CleanDocument):
            profile.add(record)
        else:
            profile.reject(*record)
    return profile


def test_a_document_is_counted_in_every_way() -> None:
    profile = profile_of(
        [
            document(1000, language="zh", split="test", redactions="email=2 phone=1", end=1500),
            document(500, redactions="email=1", unit="row"),
        ]
    )
    assert profile.split_documents == {"test": 1, "train": 1} and profile.split_bytes == {"test": 1000, "train": 500}
    assert profile.language_documents == {"zh": 1, "en": 1} and profile.language_bytes == {"zh": 1000, "en": 500}
    assert profile.redactions == {"email": 3, "phone": 1}
    assert profile.lengths == {length_bin(1000): 1, length_bin(500): 1}
    assert (profile.kept, profile.kept_bytes, profile.characters) == (2, 1500, 18)


def test_a_row_of_a_table_comes_in_with_the_bytes_of_its_text_since_its_place_counts_rows() -> None:
    assert profile_of([document(500, unit="row", start=7, end=8)]).bytes_in == 500
    assert profile_of([document(500, start=7, end=907)]).bytes_in == 900


def test_a_rejection_counts_by_its_reason_and_by_the_suites_it_overlaps() -> None:
    profile = Profile("night 1")
    profile.reject(Rejection("contaminated", ""), 70, suites=("mmlu", "piqa"))
    profile.reject(Rejection("near_duplicate", ""), 30)
    profile.reject(Rejection("repeated_text", ""), 1)
    assert profile.rejected == {"contaminated": 1, "near_duplicate": 1, "repeated_text": 1}
    assert profile.rejected_bytes == {"contaminated": 70, "near_duplicate": 30, "repeated_text": 1}
    assert dict(profile.contaminated) == {"mmlu": 1, "piqa": 1}
    assert (profile.records_in, profile.duplicates, profile.bytes_in) == (3, 2, 101)


@given(records)
def test_every_record_is_kept_or_rejected(found: list[Any]) -> None:
    profile = profile_of(found)
    assert profile.records_in == len(found) == profile.kept + profile.rejected.total()


@given(records, st.integers(1, 5), st.randoms())
def test_parts_merge_to_the_same_bytes_however_they_are_cut_and_ordered(
    found: list[Any], cuts: int, rng: random.Random
) -> None:
    parts = [profile_of(found[start::cuts]) for start in range(cuts)]
    rng.shuffle(parts)
    merged = Profile("night 1")
    for part in parts:
        merged.merge(part)
    assert merged.to_json() == profile_of(found).to_json()


def test_parts_of_different_batches_do_not_merge() -> None:
    with pytest.raises(ProfileError, match="batch night 1: cannot merge a part of batch night 2; use total"):
        Profile("night 1").merge(Profile("night 2"))


def test_the_total_of_batches_leaves_them_as_they_are() -> None:
    batches = [profile_of([document()], "night 1"), profile_of([document(), document()], "night 2")]
    together = total(batches)
    assert (together.batch, together.kept, [batch.kept for batch in batches]) == ("all batches", 3, [1, 2])
    assert (together.characters, together.bytes_in) == (27, 36)


@given(LENGTHS)
def test_a_bin_holds_its_length_and_is_narrow(size: int) -> None:
    number = length_bin(size)
    assert bin_start(number) <= size < bin_start(number + 1)
    assert bin_start(number + 1) - bin_start(number) <= max(size / 8, 1)


@given(st.lists(LENGTHS, min_size=1, max_size=50), st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]))
def test_a_quantile_is_in_the_bin_of_the_true_one(sizes: list[int], q: float) -> None:
    true = sorted(sizes)[math.ceil(q * len(sizes)) - 1]
    found = profile_of([document(size) for size in sizes]).quantile(q)
    assert bin_start(length_bin(true)) <= found < bin_start(length_bin(true) + 1)


def test_a_quantile_moves_through_a_bin_with_the_share() -> None:
    profile = profile_of([document(1024)] * 100)
    assert profile.quantile(0.0) == 1024 and profile.quantile(1.0) == 1151
    assert profile.quantile(0.5) == pytest.approx(1024 + 127 / 2)


def test_there_is_no_quantile_of_nothing() -> None:
    assert math.isnan(Profile("night 1").quantile(0.5))


@given(records)
def test_what_is_written_is_read_again(found: list[Any]) -> None:
    profile = profile_of(found)
    assert Profile.from_json(profile.to_json()) == profile


def test_a_suite_that_nothing_overlaps_is_remembered(tmp_path: Path) -> None:
    profile = Profile("night 1")
    profile.contaminated["mmlu"] = 0
    write_profiles([profile], tmp_path)
    assert dict(read_profiles(tmp_path)[0].contaminated) == {"mmlu": 0}


def test_batches_are_read_in_the_order_they_were_written_in(tmp_path: Path) -> None:
    batches = [profile_of([document()], name) for name in ("night 2", "nacht 1 ü", "night 0")]
    write_profiles(batches, tmp_path)
    assert read_profiles(tmp_path) == batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"where: format 2, this version reads 1"),
        ({"colour": 1}, r"where: colour: unknown or missing; run the clean stage again"),
        ({"characters": -1}, r"where: characters: -1 is not a count"),
        ({"characters": True}, r"where: characters: True is not a count"),
        ({"kept_raw_bytes": 1.0}, r"where: kept_raw_bytes: 1\.0 is not a count"),
        ({"rejected": {"too_short": "2"}}, r"where: rejected\.too_short: '2' is not a count"),
        ({"rejected": [1]}, r"where: rejected: \[1\] is not a mapping of counts"),
        ({"batch": 7}, r"where: batch: 7 is not a name"),
        ({"lengths": {"x": 1}}, r"where: lengths: 'x' is not the number of a bin"),
        ({"lengths": {"3": 2}}, r"where: lengths add up to 2, split_documents to 1"),
        ({"language_documents": {}}, r"where: language_documents add up to 0, split_documents to 1"),
        ({"split_documents": {"dev": 1}}, r"where: split_documents: 'dev' is no split; splits are train, valid"),
    ],
)
def test_a_profile_that_is_not_one_is_refused(change: dict[str, Any], message: str) -> None:
    content = json.dumps(json.loads(profile_of([document()]).to_json()) | change)
    with pytest.raises(ProfileError, match=message):
        Profile.from_json(content, "where")


def test_a_missing_key_is_named() -> None:
    values = json.loads(Profile("night 1").to_json())
    del values["redactions"]
    with pytest.raises(ProfileError, match="profile: redactions: unknown or missing"):
        Profile.from_json(json.dumps(values))


def test_an_empty_bin_of_a_file_does_no_harm() -> None:
    values = json.loads(profile_of([document(100)]).to_json())
    values["lengths"]["0"] = 0
    assert Profile.from_json(json.dumps(values)).quantile(0.0) > 90


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"profile\.json: missing; the artifact has no profile, run the clean stage again"),
        ("[", r"profile\.json: not JSON"),
        ("{}", r"profile\.json: dict instead of a list of batches"),
        ("[3]", r"profile\.json, batch 0: format None"),
    ],
)
def test_a_file_that_holds_no_profiles_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "profile.json").write_text(content)
    with pytest.raises(ProfileError, match=message):
        read_profiles(tmp_path)
