from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from llm_core.artifact import Draft
from llm_core.labels.sources import read_tasks, sample_tasks
from llm_core.labels.task import KINDS, Kind, LabelError, Task
from llm_core.text.document import Document
from llm_core.text.shards import DOCUMENTS, ShardWriter
from tests.llm_core.labels.tasks import CONTENT


def lines(folder: Path, *records: Any) -> Path:
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path, kind: Kind = "classification") -> list[Task]:
    return list(read_tasks([path], kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_is_a_task_of_each_kind(tmp_path: Path, kind: Kind) -> None:
    (task,) = read(lines(tmp_path, {**CONTENT[kind], "another": "key"}), kind)
    assert (task.content, task.source) == (CONTENT[kind], str(tmp_path / "documents.jsonl"))
    line = (tmp_path / "documents.jsonl").read_bytes().rstrip(b"\n")
    assert task.sha256 == hashlib.sha256(line).hexdigest()


def test_a_text_file_is_a_document_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfOne\r\nTwo\rThree")
    (task,) = read(path)
    assert task.content == {"text": "One\nTwo\nThree"}
    assert task.sha256 == "3a8a49896ed7a132ac9c64e1a78faaa8d98b12e8a0f4e47b84f25b7b4a4a049d"


def test_a_plain_text_opens_a_chat_or_asks_for_two_answers(tmp_path: Path) -> None:
    path = lines(tmp_path, {"text": "Who are you?"})
    assert read(path, "chat")[0].content == {"messages": [{"role": "user", "content": "Who are you?"}]}
    assert read(path, "preference")[0].content == {"prompt": "Who are you?"}


def test_an_artifacts_documents_keep_source_and_sha256(tmp_path: Path) -> None:
    document = Document(source="a.txt", start=3, end=9, sha256="cd" * 32, license="none", text="A fine film.")
    with Draft(tmp_path / "clean", kind="documents", stage="clean") as out:
        with ShardWriter(out.path, Document, DOCUMENTS) as shard:
            shard.add(document)
        out.publish({})
    (task,) = read(tmp_path / "clean")
    assert (task.content, task.sha256, task.source) == ({"text": "A fine film."}, "cd" * 32, "a.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text"', r"documents\.jsonl, line 2: is no JSON"),
        (b'"text"', r"line 1: is no object"),
        (b'{"txt": "a"}', r"line 1: text is missing"),
        (b'{"text": ["a"]}', r"line 1: text is of type list"),
        (b'\n{"text": " "}', r"line 2: text is empty"),
        (b'{"text": "\\ud83d"}', r"line 1: text holds half of a surrogate pair"),
        (b'{"text": "\xff"}', r"line 1: is not UTF-8 .* at byte 10"),
        (b"[" * 100_000, r"line 1: is no JSON"),
        (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", r"line 1: is no JSON"),
    ],
)
def test_an_unusable_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages is no list"),
        ([], "messages is no list"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\]: its role must be one of"),
        ([{"role": "user", "content": ""}], r"messages\[0\]\.content is empty"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "the last turn must be the user's"),
    ],
)
def test_a_conversation_to_answer_ends_with_the_user(tmp_path: Path, messages: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read(lines(tmp_path, {"messages": messages}), "chat")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"nope\.txt: cannot be read"):
        read(tmp_path / "nope.txt")
    with pytest.raises(LabelError, match="name a file or a documents artifact"):
        read(tmp_path)


def tasks(*texts: str) -> list[Task]:
    return [Task("classification", {"text": text}, "ab" * 32, "a") for text in texts]


def test_copies_are_one_task_and_the_order_is_kept() -> None:
    assert [task.text for task in sample_tasks(tasks("b", "a", "b", "c", "a"))] == ["b", "a", "c"]


def test_of_two_copies_the_first_ones_origin_is_kept() -> None:
    copies = [
        Task("pairs", {"text": "Guten Tag"}, sha256 * 32, source) for sha256, source in (("ab", "a"), ("cd", "b"))
    ]
    (kept,) = sample_tasks(copies)
    assert (kept.source, kept.sha256) == ("a", "ab" * 32)


def test_a_sample_follows_from_the_texts_whatever_their_order_and_grows_by_adding() -> None:
    texts = [f"text {number}" for number in range(50)]
    some = sample_tasks(tasks(*texts), 10)
    assert sample_tasks(tasks(*reversed(texts)), 10) == some
    assert sample_tasks(tasks(*texts), 20)[:10] == some
    assert [task.text for task in some] != texts[:10]


def test_a_sample_keeps_no_more_than_two_of_its_size_in_memory() -> None:
    seen: list[ref[Task]] = []

    def documents() -> Iterator[Task]:
        for number in range(200):
            (task,) = tasks(f"text {number}")
            seen.append(ref(task))
            assert sum(each() is not None for each in seen) <= 2 * 10 + 1
            yield task

    assert len(sample_tasks(documents(), 10)) == 10


def test_an_id_follows_from_kind_and_content_alone() -> None:
    known = Task("classification", {"text": "A fine film."}, "ab" * 32, "a")
    assert known.id == Task("classification", {"text": "A fine film."}, "cd" * 32, "b").id
    others = [Task("sequence", {"text": "A fine film."}, "ab" * 32, "a"), *tasks("A fine film")]
    assert known.id not in {task.id for task in others}
    # printf '["classification",{"text":"A fine film."}]' | sha256sum
    assert known.id == "9b57c2e4222c1597"
