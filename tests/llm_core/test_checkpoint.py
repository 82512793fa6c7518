"""Checkpoints: whole or absent, verified, in numeric order, and never another run's."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_core.checkpoint import CheckpointError, Checkpoints, Snapshot

IDENTITY: dict[str, Any] = {"recipe": {"train": {"lr": 1e-3}}, "tokens": "abc"}


def store(folder: Path, keep: int = 2, **changed: Any) -> Checkpoints:
    return Checkpoints(folder, {**IDENTITY, **changed}, keep)


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"weights/a": torch.full((3,), float(step))}, {"tokens": 10 * step, "curve": []})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    store(tmp_path).save(snapshot(7))
    loaded = store(tmp_path).load_latest()
    assert loaded is not None
    assert (loaded.step, loaded.values) == (7, {"tokens": 70, "curve": []})
    assert torch.equal(loaded.tensors["weights/a"], torch.full((3,), 7.0))


def test_no_folder_and_an_empty_folder_have_no_checkpoint(tmp_path: Path) -> None:
    assert store(tmp_path / "absent").load_latest() is None
    assert store(tmp_path).load_latest() is None


def test_the_newest_by_number_is_taken_and_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10):  # as text, 9 would come after 10
        store(tmp_path).save(snapshot(step))
    assert names(tmp_path) == ["step-10", "step-9"]
    loaded = store(tmp_path).load_latest()
    assert loaded is not None and loaded.step == 10


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (9, 10):
        store(tmp_path).save(snapshot(step))
    path = tmp_path / "step-10" / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-5] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    with caplog.at_level(logging.WARNING):
        loaded = store(tmp_path).load_latest()
    assert loaded is not None and loaded.step == 9
    assert "step-10" in caplog.text and name in caplog.text


def test_with_all_damaged_there_is_none(tmp_path: Path) -> None:
    store(tmp_path).save(snapshot(1))
    (tmp_path / "step-1" / "state.safetensors").write_bytes(b"")
    assert store(tmp_path).load_latest() is None


def test_a_killed_write_is_ignored_and_swept_away(tmp_path: Path) -> None:
    store(tmp_path).save(snapshot(1))
    (tmp_path / ".step-2.draft").mkdir()
    (tmp_path / ".step-2.draft" / "state.safetensors").write_bytes(b"half")
    loaded = store(tmp_path).load_latest()
    assert loaded is not None and loaded.step == 1
    store(tmp_path).save(snapshot(2))
    assert names(tmp_path) == ["step-1", "step-2"]


def test_a_failed_write_leaves_the_checkpoints_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).save(snapshot(1))
    monkeypatch.setattr("llm_core.checkpoint.os.rename", _no_space)
    with pytest.raises(OSError, match="no space"):
        store(tmp_path).save(snapshot(2))
    loaded = store(tmp_path).load_latest()
    assert loaded is not None and loaded.step == 1


def _no_space(*_: object) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": {"train": {"lr": 2e-3}}}, "recipe.train.lr is 0.001 in the checkpoint and 0.002 now"),
        ({"tokens": "def"}, "tokens is 'abc' in the checkpoint and 'def' now"),
        ({"circumstances": {"threads": 2}}, "circumstances.threads is None in the checkpoint and 2 now"),
    ],
)
def test_another_runs_checkpoint_is_refused_naming_the_field(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    store(tmp_path).save(snapshot(1))
    with pytest.raises(CheckpointError, match=message):
        store(tmp_path, **changed).load_latest()


def test_an_unknown_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_core.checkpoint.CHECKPOINT_FORMAT", 99)
    store(tmp_path).save(snapshot(1))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        store(tmp_path).load_latest()


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        store(folder).save(snapshot(3))
    a, b = ((folder / "step-3" / "state.safetensors").read_bytes() for folder in (tmp_path / "a", tmp_path / "b"))
    assert a == b
    assert json.loads((tmp_path / "a/step-3/checkpoint.json").read_text())["step"] == 3


def test_clearing_removes_everything(tmp_path: Path) -> None:
    store(tmp_path / "run").save(snapshot(1))
    store(tmp_path / "run").clear()
    assert not (tmp_path / "run").exists()
