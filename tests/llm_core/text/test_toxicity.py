"""Listed words count whole, in any script; a document goes by their share."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_core.config import Clean
from llm_core.text.document import Document, Rejection
from llm_core.text.toxicity import WordListError, flag_toxicity, words_sha256


def document(text: str) -> Document:
    return Document(source="s", start=0, end=1, sha256="0" * 64, license="x", text=text)


def config(folder: Path, listed: str, max_share: float = 0.1) -> Clean:
    path = folder / "words.txt"
    path.write_text(listed, encoding="utf-8")
    return Clean.model_validate({"toxicity": {"words": [str(path)], "max_share": max_share}})


def is_rejected(text: str, cfg: Clean) -> bool:
    return isinstance(flag_toxicity(document(text), cfg), Rejection)


@pytest.mark.parametrize(
    ("listed", "text", "rejected"),
    [
        ("darn", "oh darn it", True),
        ("darn", "oh DARN, it", True),
        ("darn", "oh darning darned undarn it", False),
        ("blow it", "just blow  it now", True),
        ("blow it", "just blow and it now", False),
        ("blow it", "just blow items now", False),
        ("d@rn", "a d in bad@rn", False),
        ("STRASSE", "eine straße hier", True),
        ("naïve", "so naïve!", True),
        ("坏蛋", "你这个坏蛋走开", True),
        ("坏蛋", "坏了的鸡蛋", False),
        ("d@rn", "oh d@rn it", True),
        ("# darn\nheck", "oh darn it", False),
    ],
)
def test_words_are_compared_whole_and_case_folded(tmp_path: Path, listed: str, text: str, rejected: bool) -> None:
    assert is_rejected(text, config(tmp_path, listed)) is rejected


def test_the_share_counts_every_word_of_a_phrase_once(tmp_path: Path) -> None:
    cfg = config(tmp_path, "blow\nblow it up\n", 0.2)
    result = flag_toxicity(document("blow it up " + "fine " * 9), cfg)
    assert result == Rejection("toxic", "0.2500 of the words are listed, 0.2 allowed")
    assert not is_rejected("blow it up " + "fine " * 12, cfg)


def test_chinese_characters_each_count_as_a_word(tmp_path: Path) -> None:
    assert not is_rejected("坏蛋" + "好" * 8, config(tmp_path, "坏蛋", 0.2))
    assert is_rejected("坏蛋" + "好" * 7, config(tmp_path, "坏蛋", 0.2))


def test_a_list_may_lie_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listpack").mkdir()
    (tmp_path / "listpack" / "__init__.py").write_text("raise RuntimeError('never imported')")
    (tmp_path / "listpack" / "en.txt").write_text("\ufeffdarn\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_rejected("darn", Clean.model_validate({"toxicity": {"words": ["pkg://listpack/en.txt"]}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n\n", "no words in there"), (b"caf\xe9", "not UTF-8 at byte 3"), (None, "No such file")],
)
def test_a_list_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WordListError, match=rf"clean\.toxicity\.words: .*bad\.txt.*{message}"):
        flag_toxicity(document("x"), Clean.model_validate({"toxicity": {"words": [str(path)]}}))


def test_the_rule_without_a_list_is_refused_with_the_recipe() -> None:
    with pytest.raises(ValueError, match=r"name one in clean\.toxicity\.words"):
        Clean(rules=("toxicity",))


def test_a_list_that_was_edited_in_between_is_not_taken_for_the_pinned_one(tmp_path: Path) -> None:
    def pinned(listed: str) -> Clean:
        cfg = config(tmp_path, listed)
        fixed = cfg.toxicity.model_copy(update={"sha256": words_sha256(cfg.toxicity.words)})
        return cfg.model_copy(update={"toxicity": fixed})

    unread = pinned("blow")
    assert not is_rejected("oh darn it", pinned("heck"))
    assert is_rejected("oh darn it", pinned("darn"))  # the same file, read again in the same process
    with pytest.raises(WordListError, match=r"words\.txt: not the lists that the recipe means, whose digest is"):
        is_rejected("oh darn it", unread)
