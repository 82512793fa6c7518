"""Checkpoints: whole or absent, verified, in numeric order, never another run's, saved beside the training."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm_core import checkpoint as module
from llm_core.checkpoint import CheckpointError, Checkpoints, Snapshot
from llm_core.checkpoint_shards import DTYPES

IDENTITY: dict[str, Any] = {"recipe": {"train": {"lr": 1e-3}}, "tokens": "abc"}
SHARD = "state-0-of-1.safetensors"


def store(folder: Path, keep: int = 2, pin_every: int = 1, **changed: Any) -> Checkpoints:
    return Checkpoints(folder, {**IDENTITY, **changed}, keep, pin_every)


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"weights/a": torch.full((3,), float(step))}, {"tokens": 10 * step, "curve": []})


def save(folder: Path, *steps: int, **settings: Any) -> None:
    with store(folder, **settings) as checkpoints:
        for step in steps:
            checkpoints.save(snapshot(step))


def latest(folder: Path, **changed: Any) -> Snapshot | None:
    with store(folder, **changed) as checkpoints:
        return checkpoints.load_latest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 7)
    loaded = latest(tmp_path)
    assert loaded is not None
    assert (loaded.step, loaded.values) == (7, {"tokens": 70, "curve": []})
    assert torch.equal(loaded.tensors["weights/a"], torch.full((3,), 7.0))


def test_every_type_and_shape_is_kept_and_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype) for dtype in DTYPES}
    tensors |= {"number": torch.tensor(3.5), "nothing": torch.empty(0, 4), "turned": torch.arange(6.0).view(2, 3).mT}
    with store(tmp_path) as checkpoints:
        checkpoints.save(Snapshot(1, tensors, {}))
        loaded = checkpoints.load(1).tensors
    for found in (loaded, load_file(tmp_path / "step-1" / SHARD)):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found[name], tensor)


def test_no_folder_and_an_empty_folder_have_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    assert latest(tmp_path) is None


def test_the_newest_by_number_is_taken_and_the_last_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 8, 9, 10)  # as text, 9 would come after 10
    assert names(tmp_path) == ["step-10", "step-9"]
    loaded = latest(tmp_path)
    assert loaded is not None and loaded.step == 10


def test_the_best_and_the_newest_pinned_checkpoint_are_kept_besides_the_last(tmp_path: Path) -> None:
    with store(tmp_path, keep=1, pin_every=4) as checkpoints:
        for step, score in ((2, 3.0), (3, 1.0), (4, 2.0), (5, None), (6, 1.0), (7, 9.0)):
            checkpoints.save(snapshot(step), score=score)
        assert checkpoints.steps() == [7, 4, 3]  # of equally good ones the first
        checkpoints.save(Snapshot(8, {}, {"validation_loss": 0.5}))
        assert checkpoints.steps() == [8]  # the last, best and pinned at once
        assert checkpoints.load(8).values == {"validation_loss": 0.5}
        with pytest.raises(CheckpointError, match=r"step-4: checkpoint.json cannot be read.*that are there: 8"):
            checkpoints.load(4)


def test_a_step_saved_again_gives_up_the_later_ones(tmp_path: Path) -> None:
    save(tmp_path, 2, 4, 6, keep=3)
    with store(tmp_path, keep=3) as checkpoints:
        assert checkpoints.load(2).step == 2
        checkpoints.save(snapshot(4))
        assert checkpoints.steps() == [4, 2]


def test_a_damaged_checkpoint_takes_no_place_among_those_that_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 2, 4, 6, keep=3)
    for step in (4, 6):
        (tmp_path / f"step-{step}" / SHARD).write_bytes(b"")
    with store(tmp_path, keep=2) as checkpoints:
        loaded = checkpoints.load_latest()
        assert loaded is not None and loaded.step == 2
        checkpoints.save(snapshot(5))
        assert checkpoints.steps() == [5, 2]


def test_with_all_damaged_there_is_none(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "step-1" / SHARD).write_bytes(b"")
    assert latest(tmp_path) is None


def test_a_killed_write_is_swept_away_and_what_it_moved_aside_put_back(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / ".step-3.draft").mkdir()
    (tmp_path / ".step-3.draft" / SHARD).write_bytes(b"half")
    (tmp_path / "step-2").rename(tmp_path / ".step-2.old")
    loaded = latest(tmp_path)
    assert loaded is not None and loaded.step == 2
    assert names(tmp_path) == ["step-1", "step-2"]


@pytest.mark.parametrize("wait", [True, False])
def test_a_failed_write_names_the_file_and_leaves_the_checkpoints_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with store(tmp_path) as checkpoints:
        checkpoints.save(snapshot(1))
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_shard", no_space)
            with pytest.raises(CheckpointError, match=rf"step-2.draft/{SHARD}: .*No space left on device.*free space"):
                checkpoints.save(snapshot(2), wait=wait)
                checkpoints.wait()
        assert names(tmp_path) == ["step-1"]
        checkpoints.save(snapshot(3), wait=wait)
    assert names(tmp_path) == ["step-1", "step-3"]


def test_a_write_that_failed_is_told_at_the_end_and_never_hides_another_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "write_manifest", lambda *_: (tmp_path / "absent" / "file").touch())
    with pytest.raises(CheckpointError, match="absent/file.*No such file"), store(tmp_path) as checkpoints:
        checkpoints.save(snapshot(1), wait=False)
    with pytest.raises(KeyError) as caught, store(tmp_path) as checkpoints:
        checkpoints.save(snapshot(1), wait=False)
        raise KeyError("the training's own")
    assert "absent/file" in caught.value.__notes__[0]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CheckpointError, match=r"file/run/.lock: cannot be written and locked \(Not a directory\); make .* writable"
    ):
        save(tmp_path / "file" / "run", 1)


def test_values_that_are_no_json_are_refused_at_once(tmp_path: Path) -> None:
    with (
        store(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="step 3: the values cannot be saved.*JSON"),
    ):
        checkpoints.save(Snapshot(3, {}, {"loss": float("nan")}), wait=False)


def test_a_tensor_of_a_type_that_the_format_lacks_is_named(tmp_path: Path) -> None:
    with store(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="wave is torch.complex64; .*F32"):
        checkpoints.save(Snapshot(3, {"wave": torch.zeros(2, dtype=torch.complex64)}, {}))


def test_tensors_may_change_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, written = threading.Event(), []

    def late(*arguments: Any) -> Any:
        written.append(arguments[1]["a"].data_ptr())
        assert go.wait(10)
        return write(*arguments)

    write = module.write_shard
    monkeypatch.setattr(module, "write_shard", late)
    live = torch.ones(4)
    with store(tmp_path) as checkpoints:
        checkpoints.save(Snapshot(1, {"a": live}, {}), wait=False)
        live.zero_()
        assert checkpoints.steps() == []  # not there yet, and training went on
        go.set()
        checkpoints.save(Snapshot(2, {"a": live}, {}), wait=False)  # waits for the first
        assert checkpoints.steps() == [1]
        checkpoints.wait()
        assert [checkpoints.load(step).tensors["a"].sum() for step in (1, 2)] == [4, 0]
    assert written[0] == written[1] != live.data_ptr()  # one buffer for all saves


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
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=message):
        latest(tmp_path, **changed)


@pytest.mark.parametrize("number", [1, 99])
def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_FORMAT", number)
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=f"format {number}, this version reads 2; remove {tmp_path}"):
        latest(tmp_path)


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        save(folder, 3)
    for name in (SHARD, "checkpoint.json"):
        assert (tmp_path / "a/step-3" / name).read_bytes() == (tmp_path / "b/step-3" / name).read_bytes()
    assert json.loads((tmp_path / "a/step-3/checkpoint.json").read_text())["step"] == 3


def test_clearing_removes_everything(tmp_path: Path) -> None:
    with store(tmp_path / "run") as checkpoints:
        checkpoints.save(snapshot(1), wait=False)
        checkpoints.clear()
    store(tmp_path / "absent").clear()
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushed(descriptor: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        seen.append(f"rename to {target.name}")
        rename(source, target)

    with store(tmp_path) as checkpoints:
        monkeypatch.setattr(os, "fsync", flushed)
        monkeypatch.setattr(os, "rename", renamed)
        checkpoints.save(snapshot(1))
    assert seen == [SHARD, "checkpoint.json", ".step-1.draft", "rename to step-1", tmp_path.name]


HOLD = """
import sys, time
from pathlib import Path
from llm_core.checkpoint_files import lock_folder
held = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_one_folder_serves_one_training_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        message = rf"{tmp_path}: another training \(process {process.pid}\) works with these checkpoints; wait for it"
        for use in (Checkpoints.load_latest, Checkpoints.__enter__, Checkpoints.clear):
            with pytest.raises(CheckpointError, match=message):
                use(store(tmp_path))
        process.send_signal(signal.SIGKILL)
        process.wait()
    save(tmp_path, 1)


def test_fallbacks_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 9, 10)
    (tmp_path / "step-10" / SHARD).unlink()
    with caplog.at_level(logging.WARNING):
        loaded = latest(tmp_path)
    assert loaded is not None and loaded.step == 9
    assert "step-10" in caplog.text and SHARD in caplog.text and "going back" in caplog.text
