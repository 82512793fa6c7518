"""A copied passage is found with its source; a text of one's own has short runs only."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from llm_core.evals import nearest as module
from llm_core.evals.nearest import NearestError, Source, make_index, nearest, suffix_order

WORDS = [f"w{number}" for number in range(40)]
PLANTED = "The Keeper of the old lighthouse, Marigold Quill, went down to the sea"


def documents(count: int = 30) -> list[Source]:
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(count)]
    texts[7] = f"{texts[7]} {PLANTED}; {texts[6]}"
    return [Source(f"{number:064x}", f"texts/{number}.txt", text) for number, text in enumerate(texts)]


def test_the_order_is_that_of_sorted_suffixes() -> None:
    ids = np.random.default_rng(1).integers(0, 4, 300)
    assert suffix_order(ids).tolist() == sorted(range(300), key=lambda place: ids[place:].tolist())
    assert suffix_order(np.zeros(5, dtype=np.int64)).tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("shard_words", [2**23, 200])
def test_a_planted_passage_is_found_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_words: int
) -> None:
    monkeypatch.setattr(module, "SHARD_WORDS", shard_words)
    make_index(documents(), tmp_path / "index")
    assert (len(list((tmp_path / "index").glob("*/ids.npy"))) > 5) == (shard_words == 200)
    text = f"He said: the keeper of the OLD lighthouse marigold quill went down, {WORDS[3]}"
    found = nearest(tmp_path / "index", text)[0]
    assert (found.num_words, found.sha256, found.source) == (10, f"{7:064x}", "texts/7.txt")
    assert text[found.start : found.end] == "the keeper of the OLD lighthouse marigold quill went down"
    assert documents()[7].text[found.first : found.last] == PLANTED.rpartition(" to the")[0]
    assert PLANTED in found.passage


def test_what_nobody_wrote_is_not_found(tmp_path: Path) -> None:
    make_index(documents(), tmp_path / "index")
    assert nearest(tmp_path / "index", "not a single one of these was in it") == []
    assert nearest(tmp_path / "index", "") == []


def test_runs_do_not_go_over_the_end_of_a_document(tmp_path: Path) -> None:
    make_index([Source("a", "a", "one two three four"), Source("b", "b", "five six seven eight")], tmp_path / "index")
    found = nearest(tmp_path / "index", "one two three four five six seven eight")
    assert [(each.num_words, each.source) for each in found] == [(4, "a"), (4, "b")]


def test_the_longest_run_is_the_one_by_search_of_all(tmp_path: Path) -> None:
    kept = documents(8)
    make_index(kept, tmp_path / "index")
    rng = random.Random(2)
    for _ in range(20):
        words = rng.choices(WORDS, k=12)
        runs = [
            size
            for size in range(1, 13)
            for first in range(13 - size)
            if any(f" {' '.join(words[first : first + size])} " in f" {each.text} " for each in kept)
        ]
        found = nearest(tmp_path / "index", " ".join(words), count=1, least=1)
        assert [each.num_words for each in found] == [max(runs)]


def test_scripts_without_blanks_are_read_letter_by_letter(tmp_path: Path) -> None:
    make_index([Source("a", "poem", "床前明月光，疑是地上霜")], tmp_path / "index")
    (found,) = nearest(tmp_path / "index", "他说：明月光疑是")
    assert (found.num_words, found.source) == (5, "poem")


def test_without_an_index_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NearestError, match="no index of documents"):
        nearest(tmp_path, "a text")
