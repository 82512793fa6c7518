from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llm_core.labels.sources import read_tasks
from llm_core.labels.task import KINDS, Kind
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.record_files import RecordFile
from llm_core.serving.samples import Judgement, Samples, consents
from llm_core.text.drift import drift_of_last
from llm_core.text.profile import Profile, read_profiles
from tasks.clean_files import clean_files, recipe_of
from tasks.observers import Terminal

TURNS = [{"role": "user", "content": "Write to ann@example.com"}, {"role": "assistant", "content": "Done."}]
TURNS += [{"role": "user", "content": "Thanks!"}]


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_an_exchange_is_kept_only_with_consent(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "kept", share=1)
    samples.take("What is asked", "what is said", "demo@1", "cmpl-1", consent=False)
    samples.take("What is asked", "what is said", "demo@1", "cmpl-2", consent=True)
    samples.close()
    (record,) = records(tmp_path / "kept", "samples")
    assert record.pop("at")
    assert record == {
        "text": "What is asked",
        "answer": "what is said",
        "response_id": "cmpl-2",
        "version": "demo@1",
    }
    assert stat.S_IMODE((tmp_path / "kept" / "samples.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


def test_personal_data_and_secrets_never_reach_the_disk(tmp_path: Path) -> None:
    samples = Samples(tmp_path, share=1)
    mail, card, key = "ann@example.com", "4111 1111 1111 1111", "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
    samples.take(f"I am {mail}", f"Your card is {card}", "demo@1", "chatcmpl-1", True, TURNS)
    ours = f"tm_{'0' * 12}_{'1' * 64}"
    samples.judge(Judgement("chatcmpl-1", rating=-1, correction=f"Use {key} or {ours}"), "id", consent=True)
    samples.close()
    text = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert not any(secret in text for secret in (mail, card, key, ours))
    (sample,), (correction,) = records(tmp_path, "samples"), records(tmp_path, "corrections")
    assert (sample["text"], sample["answer"]) == ("I am <EMAIL>", "Your card is <CARD>")
    assert sample["messages"][0]["content"] == "Write to <EMAIL>" and correction["right"] == "Use <KEY> or <KEY>"


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.1, 60, 140), (1.0, 1000, 1000)])
def test_the_sample_has_the_share_that_was_asked_for(tmp_path: Path, share: float, least: int, most: int) -> None:
    samples = Samples(tmp_path, share)
    for number in range(1000):
        samples.take("text", "answer", "demo@1", f"cmpl-{number}", consent=True)
        if samples._waiting.qsize() > 500:
            time.sleep(0.1)  # more than may wait is dropped
    samples.close()
    assert least <= len(records(tmp_path, "samples")) <= most


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ValueError, match="--sample .* from 0"):
        Samples(tmp_path, share)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_can_be_labelled(tmp_path: Path, kind: Kind) -> None:
    samples = Samples(tmp_path, share=1)
    samples.take("A question", "an answer", "demo@1", "cmpl-1", True)
    samples.take("Thanks!", "You are welcome", "demo@1", "chatcmpl-2", True, TURNS)
    samples.take("Empty turns", "x", "demo@1", "chatcmpl-3", True, [{"role": "user", "content": " "}])
    samples.take("  ", "nothing was asked", "demo@1", "cmpl-4", True)
    for response in ("cmpl-1", "chatcmpl-2"):
        samples.judge(Judgement(response, stars=2), "id", consent=True)
        samples.judge(Judgement(response, correction="a better one"), "id", consent=True)
    samples.close()
    for name, number in (("samples", 3), ("feedback", 2), ("corrections", 2)):
        tasks = list(read_tasks([tmp_path / f"{name}.jsonl"], kind))
        assert len(tasks) == number
    if kind == "chat":
        assert [turn["content"] for turn in tasks[1].content["messages"]][-1] == "Thanks!"
    if kind == "preference":
        assert (tasks[0].content["left"], tasks[0].content["right"]) == ("an answer", "a better one")


def asked(folder: Path, num_words: int) -> Profile:
    """What cleaning counts in a sample of prompts of this length."""
    words = Path(__file__).read_text().split()
    samples, random = Samples(folder / "kept", share=1), Random(num_words)
    for number in range(40):
        samples.take(" ".join(random.choices(words, k=num_words)), "answer", "demo@1", f"cmpl-{number}", consent=True)
    samples.close()
    with Terminal("clean") as observer:
        clean_files(recipe_of([str(folder / "kept" / "samples.jsonl")], None, None), folder / "clean", observer)
    (profile,) = read_profiles(folder / "clean" / "documents")
    return profile


def test_the_drift_of_what_is_asked_can_be_measured(tmp_path: Path) -> None:
    first, alike, longer = (asked(tmp_path / str(size), size) for size in (60, 61, 600))
    assert first.records_in == 40 and first.kept > 30
    near, far = drift_of_last([first, alike])["lengths"], drift_of_last([first, longer])["lengths"]
    assert near.distance < near.by_chance < far.by_chance < far.distance


def test_a_judgement_is_numbers_unless_both_consented(tmp_path: Path) -> None:
    samples = Samples(tmp_path, share=0)
    samples.take("asked", "answered", "demo@1", "with", consent=True)
    samples.take("asked", "answered", "demo@1", "without", consent=False)
    assert samples.judge(Judgement("with", rating=1), "id", consent=False) == ["rating"]
    assert samples.judge(Judgement("without", rating=-1, correction="private"), "id", consent=True) == ["rating"]
    assert samples.judge(Judgement("unknown", stars=3), None, consent=True) == ["rating"]
    assert samples.judge(Judgement("with", rating=1), "id", consent=True) == ["rating", "exchange"]
    samples.close()
    numbers = ("response_id", "rating", "stars", "corrected")
    first, second, third, _ = (tuple(each[name] for name in numbers) for each in records(tmp_path, "ratings"))
    assert (first, second) == (("with", 1, None, False), ("without", -1, None, True))
    assert third == ("unknown", None, 3, False)
    assert [each["rating"] for each in records(tmp_path, "feedback")] == [1]
    assert "private" not in "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))


def test_memory_for_exchanges_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_core.serving.samples.REMEMBERED_CHARACTERS", 1000)
    samples = Samples(tmp_path)
    for number in range(100):
        samples.take("x" * 90, "y" * 10, "demo@1", f"cmpl-{number % 50}", consent=True)
    assert len(samples._remembered) == 10 and samples._num_characters == 1000
    samples.close()


def test_files_are_bounded_and_the_newest_records_stay(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "kept" / "samples.jsonl", max_bytes=200, max_files=3)
    for number in range(100):
        file.append({"number": number, "text": "x" * 20})
    paths = sorted(tmp_path.glob("kept/*.jsonl"))
    assert [path.name for path in paths] == ["samples-1.jsonl", "samples-2.jsonl", "samples.jsonl"]
    assert all(path.stat().st_size <= 200 and stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths)
    names = ("samples-2", "samples-1", "samples")
    newest = [each["number"] for name in names for each in records(tmp_path / "kept", name)]
    assert newest == list(range(newest[0], 100))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write = RecordFile(tmp_path / "samples.jsonl"), os.write
    file.append({"number": 1})
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with pytest.raises(OSError, match="only 5 of"):
        file.append({"number": 2})
    monkeypatch.undo()
    file.append({"number": 3})
    assert [each["number"] for each in records(tmp_path, "samples")] == [1, 3]


def test_consent_is_a_header_or_openais_metadata() -> None:
    assert consents({"x-tidemill-consent": "true"}, {}) and consents({}, {"consent": "true"})
    assert not any(consents({"x-tidemill-consent": text}, {"consent": text}) for text in ("", "false", "1", "True "))


@pytest.fixture
def samples(tmp_path: Path) -> Iterator[Samples]:
    made = Samples(tmp_path / "kept")
    yield made
    made.close()


@pytest.fixture
def client(engine: Engine, host: Host, samples: Samples) -> Iterator[TestClient]:
    with TestClient(create_app(Service(host, engine), samples=samples)) as client:
        yield client


def test_feedback_over_http_is_kept(client: TestClient, samples: Samples, tmp_path: Path) -> None:
    samples.take("asked", "answered", "tiny@1", "cmpl-1", consent=True)
    body = {"id": "cmpl-1", "rating": -1, "correction": "a better one"}
    assert client.post("/v1/feedback", json=body).json()["kept"] == ["rating"]
    with_header = client.post("/v1/feedback", json=body, headers={"x-tidemill-consent": "true"})
    assert with_header.json() == {"object": "feedback", "id": "cmpl-1", "kept": ["rating", "exchange"]}
    assert client.post("/v1/feedback", json={**body, "consent": True, "stars": 1}).json()["kept"][-1] == "exchange"
    samples.close()
    assert len(records(tmp_path / "kept", "ratings")) == 3
    assert [each["right"] for each in records(tmp_path / "kept", "corrections")] == ["a better one"] * 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give rating, stars or correction"),
        ({"rating": 2}, "rating"),
        ({"stars": 6}, "stars: .* less than or equal to 5"),
        ({"rating": 1, "id": "a b"}, "id: String should match"),
        ({"rating": 1, "score": 3}, "score: unknown parameter"),
        ({"rating": 1, "correction": ""}, "correction"),
    ],
)
def test_feedback_that_makes_no_sense_is_refused(client: TestClient, values: dict[str, Any], message: str) -> None:
    refused = client.post("/v1/feedback", json={"id": "cmpl-1", **values})
    assert refused.status_code == 400
    assert re.search(message, refused.json()["error"]["message"])


def test_a_server_that_keeps_nothing_says_so(engine: Engine, host: Host) -> None:
    with TestClient(create_app(Service(host, engine))) as client:
        refused = client.post("/v1/feedback", json={"id": "cmpl-1", "rating": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "feedback_off")
