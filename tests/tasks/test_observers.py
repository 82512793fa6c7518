from __future__ import annotations

import pytest

from tasks import observers
from tasks.observers import Terminal, Together


def test_without_a_terminal_there_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(observers.time, "monotonic", lambda: now)
    with Terminal("train") as observer:
        observer.metrics(1, {"train/loss": 2.5})
        observer.progress(1, 9, "steps")
        now += 11
        observer.progress(5, 9, "steps")
        observer.progress(6, 9, "steps")
    assert capsys.readouterr().err == "train: 5/9 steps  train/loss 2.5\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Terminal("train") as observer:
        observer.progress(5, 9, "steps")
    assert "5/9" in capsys.readouterr().err


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
