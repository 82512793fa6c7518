"""A run that was broken off, and whose two newest checkpoints were damaged, comes to the unbroken run's weights."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_core import checkpoint_files as files
from llm_core import checkpoint_reading
from llm_core.checkpoint import CheckpointError, Checkpoints, Snapshot
from tests.llm_core.tiny_training import Watcher, make_inputs, train_tiny

SHARD, MANIFEST = "state-0-of-1.safetensors", "checkpoint.json"
Damage = Callable[[Path, Path], object]  # of the newest checkpoint's folder and the one before


def each(damage: Callable[[Path], object]) -> Damage:
    def both(newest: Path, second: Path) -> None:
        damage(newest)
        damage(second)

    return both


def shard(change: Callable[[bytearray], object]) -> Damage:
    """Change the bytes of the tensors' file."""
    return each(lambda folder: rewrite(folder / SHARD, change))


def manifest(change: Callable[[bytearray], object]) -> Damage:
    return each(lambda folder: rewrite(folder / MANIFEST, change))


def rewrite(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def flip(place: float) -> Callable[[bytearray], None]:
    """Turn over one bit, so far into the content (0 to 1)."""

    def change(content: bytearray) -> None:
        content[int(place * (len(content) - 1))] ^= 4

    return change


def keep_share(share: float) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        del content[int(share * len(content)) :]

    return change


def zero_page(content: bytearray) -> None:
    content[4096:8192] = bytes(4096)


def sealed(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the manifest's content and seal it anew, as somebody would who knows the format."""

    def one(folder: Path) -> None:
        content = json.loads((folder / MANIFEST).read_text())
        del content[files.SEAL]
        change(content)
        (folder / MANIFEST).unlink()
        files.write_manifest(folder, content)

    return each(one)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the tensors, with a manifest that vouches for the new file but not for what is in it."""

    def one(folder: Path) -> None:
        state = {name: tensor.clone() for name, tensor in load_file(folder / SHARD).items()}
        change(state)
        save_file(state, folder / SHARD)

    def vouch(newest: Path, second: Path) -> None:
        each(one)(newest, second)
        for folder in (newest, second):
            facts = {
                "bytes": (folder / SHARD).stat().st_size,
                "sha256": hashlib.sha256((folder / SHARD).read_bytes()).hexdigest(),
            }
            sealed(lambda content, facts=facts: content["shards"].__setitem__(0, facts))(folder, folder)

    return vouch


def reshape_first(state: dict[str, torch.Tensor]) -> None:
    name = next(name for name in state if state[name].dim() == 2)
    state[name] = state[name].reshape(-1)


def swap_shards(newest: Path, second: Path) -> None:
    (newest / SHARD).rename(newest / "kept")
    (second / SHARD).rename(newest / SHARD)
    (newest / "kept").rename(second / SHARD)


def rename_later(folder: Path) -> None:
    step = int(folder.name.removeprefix("step-"))
    folder.rename(folder.with_name(f"step-{step + 50}"))


def become_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def become_link(folder: Path) -> None:
    folder.rename(folder.with_name(f"moved-{folder.name}"))
    folder.symlink_to(f"moved-{folder.name}")


def link_shard(folder: Path) -> None:
    (folder / SHARD).rename(folder / "elsewhere")
    (folder / SHARD).symlink_to("elsewhere")


def cannot_be_read(folder: Path) -> None:
    """What the superuser cannot read either."""
    (folder / SHARD).unlink()
    (folder / SHARD).mkdir()


def become_draft(folder: Path) -> None:
    rewrite(folder / SHARD, keep_share(0.5))
    (folder / MANIFEST).unlink()
    folder.rename(folder.with_name(f".{folder.name}.draft"))


def become_third(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "step-2", folder)


DAMAGES: dict[str, Damage] = {
    "a bit of the tensors' header": shard(flip(0.01)),
    "a bit in the middle of the tensors": shard(flip(0.5)),
    "the last byte of the tensors": shard(flip(1)),
    "tensors cut in half": shard(keep_share(0.5)),
    "tensors without their last bytes": shard(keep_share(0.9999)),
    "tensors with bytes behind them": shard(lambda content: content.extend(bytes(64))),
    "an empty file of tensors": shard(bytearray.clear),
    "a page of zeros": shard(zero_page),
    "no tensors": each(lambda folder: (folder / SHARD).unlink()),
    "the tensors' name of two ranks": each(lambda folder: (folder / SHARD).rename(folder / "state-0-of-2.safetensors")),
    "tensors that cannot be read": each(cannot_be_read),
    "tensors behind a link": each(link_shard),
    "tensors of the other step": swap_shards,
    "no manifest": each(lambda folder: (folder / MANIFEST).unlink()),
    "a bit of the manifest": manifest(flip(0.5)),
    "a manifest cut in half": manifest(keep_share(0.5)),
    "an empty manifest": manifest(bytearray.clear),
    "a manifest that is a list": each(lambda folder: (folder / MANIFEST).write_text("[1, 2]")),
    "a manifest that is no text": each(lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe{}")),
    "NaN in the manifest": manifest(
        lambda content: content.__setitem__(slice(None), re.sub(rb'"score": [^,]*', b'"score": NaN', content))
    ),
    "an older format in a manifest that was not written so": manifest(
        lambda content: content.__setitem__(slice(None), content.replace(b'"format": 2', b'"format": 1'))
    ),
    "another sha256 under a right seal": sealed(lambda content: content["shards"][0].update(sha256="0" * 64)),
    "a field missing under a right seal": sealed(lambda content: content.pop("shards")),
    "another shape under a right seal": sealed(
        lambda content: next(iter(content["tensors"].values()))["shape"].append(1)
    ),
    "an extra tensor": tensors(lambda state: state.update(extra=torch.zeros(3))),
    "a missing tensor": tensors(dict.popitem),
    "a tensor of another shape": tensors(reshape_first),
    "the folder renamed to a later step": each(rename_later),
    "the folder with a leading zero": each(
        lambda folder: folder.rename(folder.with_name(folder.name.replace("-", "-0")))
    ),
    "the whole checkpoint of another step": each(become_third),
    "a file in the folder's place": each(become_file),
    "a link in the folder's place": each(become_link),
    "an empty folder": each(lambda folder: [path.unlink() for path in folder.iterdir()]),
    "a draft that was half written": each(become_draft),
}


class Broken(Exception):
    """What breaks the run off."""


def break_off(step: int) -> None:
    if step == 7:
        raise Broken


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was broken off after step 7 with checkpoints of the steps 2, 4 and 6; the unbroken run's weights."""
    root = tmp_path_factory.mktemp("runs")
    make_inputs(root)
    unbroken = train_tiny(root, "unbroken")
    stop(root)
    assert sorted(path.name for path in (root / "broken" / "checkpoints").glob("step-*")) == [
        "step-2",
        "step-4",
        "step-6",
    ]
    return root, unbroken


def stop(root: Path) -> None:
    with pytest.raises(Broken):
        train_tiny(root, "broken", Watcher(break_off))


def problem_with(root: Path, unbroken: str, damage: Damage | None, first: int) -> str | None:
    """Damage the checkpoints of a copy of the broken run and train it to its end; what is wrong, None if nothing is.

    The first step that it trains must be `first`, and the weights in the end the unbroken run's.
    """
    copy, watcher = root / "copy", Watcher()
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root / "broken", copy)
    if damage is not None:
        damage(copy / "checkpoints" / "step-6", copy / "checkpoints" / "step-4")
    weights = train_tiny(root, "copy", watcher)
    if watcher.steps[0] != first:
        return f"went on with step {watcher.steps[0]}"
    return None if weights == unbroken else "other weights"


@pytest.mark.parametrize("name", DAMAGES)
def test_with_the_two_newest_damaged_the_third_is_loaded(runs: tuple[Path, str], tmp_path: Path, name: str) -> None:
    shutil.copytree(runs[0] / "broken" / "checkpoints", tmp_path, dirs_exist_ok=True)
    identity = json.loads((tmp_path / "step-2" / MANIFEST).read_text())["identity"]
    third = load_file(tmp_path / "step-2" / SHARD)
    DAMAGES[name](tmp_path / "step-6", tmp_path / "step-4")
    with Checkpoints(tmp_path, identity, keep=3) as checkpoints:
        loaded = checkpoints.load_latest()
    assert loaded is not None and loaded.step == 2
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in third.items())


@pytest.mark.e2e
@pytest.mark.parametrize("name", DAMAGES)
def test_with_the_two_newest_damaged_the_third_leads_to_the_same_weights(runs: tuple[Path, str], name: str) -> None:
    assert problem_with(*runs, DAMAGES[name], first=3) is None


def test_undamaged_the_newest_leads_to_the_same_weights(runs: tuple[Path, str]) -> None:
    assert problem_with(*runs, None, first=7) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_a_checkpoint_that_must_not_be_read_is_passed_over(runs: tuple[Path, str]) -> None:
    assert problem_with(*runs, each(lambda folder: (folder / SHARD).chmod(0)), first=3) is None


def test_without_the_sha256_the_same_check_finds_wrong_weights(
    runs: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_reading, "check_file", lambda *_: None)
    assert problem_with(*runs, DAMAGES["a bit in the middle of the tensors"], first=3) == "went on with step 7"
    assert problem_with(*runs, DAMAGES["a page of zeros"], first=7) == "other weights"


def forget_random_state(snapshot: Snapshot) -> Snapshot:
    assert any(name.startswith("rng") for name in snapshot.tensors)
    fresh = torch.Generator().get_state()
    return replace(snapshot, tensors={n: fresh if n.startswith("rng") else t for n, t in snapshot.tensors.items()})


def forget_optimizer(snapshot: Snapshot) -> Snapshot:
    changed = {n: t * 0 if n.startswith("optimizer/") else t for n, t in snapshot.tensors.items()}
    return replace(snapshot, tensors=changed)


def forget_cursor(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, values={**snapshot.values, "batch": 0})


@pytest.mark.parametrize("forget", [forget_random_state, forget_optimizer, forget_cursor])
def test_a_build_that_forgets_a_part_of_the_state_comes_to_other_weights(
    runs: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, forget: Callable[[Snapshot], Snapshot]
) -> None:
    def forgetful(self: Checkpoints, *arguments: Any) -> Snapshot | None:
        loaded = load_latest(self, *arguments)
        return loaded and forget(loaded)

    load_latest = Checkpoints.load_latest
    monkeypatch.setattr(Checkpoints, "load_latest", forgetful)
    assert problem_with(*runs, None, first=7) == "other weights"


def test_other_data_is_refused_naming_the_field(runs: tuple[Path, str], tmp_path: Path) -> None:
    root, _ = runs
    shutil.copytree(root, tmp_path / "other")
    make_inputs(tmp_path / "other", seed=2)
    with pytest.raises(CheckpointError, match="tokens is .* in the checkpoint and .* now; go on as it was, or remove"):
        train_tiny(tmp_path / "other", "broken")
