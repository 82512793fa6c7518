from __future__ import annotations

import re

import pytest

from tasks import observers, orchestrate
from tasks.observers import Facts, Terminal, Together
from tasks.orchestrate import PrefectProgress


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(observers.time, "monotonic", lambda: now)
    with Terminal("train") as observer:
        observer.metrics(1, {"train/loss": 2.5, "train/tokens_per_second": 12345.6, "train/mfu": 0.412, "pages": 3})
        observer.progress(1, 9, "steps")
        now += 11
        observer.progress(5, 9, "steps")
        observer.progress(6, 9, "steps")
    assert capsys.readouterr().err == ("train: 5/9 steps  loss 2.500  12,346 tokens/s  MFU 41%  pages 3  ETA 0:00:11\n")


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with Terminal("train") as observer:
        observer.metrics(5, {"train/loss": 2.5, "train/tokens_per_second": 900.0, "train/mfu": 0.2})
        observer.progress(5, 9, "steps")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "5/9 -:--:-- steps  loss 2.500  900 tokens/s  MFU 20%" in shown


def test_the_time_that_is_left_is_that_of_this_processs_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on at step 900 of 1,000 has not done 900 steps in no time."""
    now, facts = 50.0, Facts()
    monkeypatch.setattr(observers.time, "monotonic", lambda: now)
    assert facts.remaining(900, 1000) == ""
    now += 60
    assert facts.remaining(910, 1000) == "ETA 0:09:00"
    assert facts.remaining(1000, 1000) == "ETA 0:00:00"


def test_prefects_page_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, object]] = []
    monkeypatch.setattr(orchestrate, "create_progress_artifact", lambda **given: sent.append(given))
    monkeypatch.setattr(orchestrate, "PROGRESS_SECONDS", 60.0)
    with PrefectProgress("train") as page:
        page.metrics(1, {"train/loss": 2.5, "train/mfu": 0.5})
        page.progress(1, 4, "steps")
        page.metrics(2, {"train/loss": 2.25})
        page.progress(2, 4, "steps")
    (artifact,) = sent
    assert artifact["progress"] == 50.0
    assert str(artifact["description"]).startswith("2/4 steps  loss 2.250  MFU 50%  ETA 0:00:00")


def test_together_all_see_all() -> None:
    class Notes(list[object]):
        def progress(self, *seen: object) -> None:
            self.append(seen)

        def metrics(self, *seen: object) -> None:
            self.append(seen)

    notes = Notes(), Notes()
    observer = Together(*notes)
    observer.progress(1, 2, "files")
    observer.metrics(3, {"loss": 1.0})
    assert notes[0] == notes[1] == [(1, 2, "files"), (3, {"loss": 1.0})]
