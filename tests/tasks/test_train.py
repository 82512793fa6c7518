"""The train stage: a complete model folder, the same bytes on every run, also after SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm_core.artifact import MANIFEST, Artifact, Draft
from llm_core.config import Model, Train
from llm_core.models import build, load_pretrained
from tasks.train import operations_per_token, train

SHAPE = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=1, mlp_width=48, context=16)
CFG = Train(steps=24, batch_tokens=128, warmup_steps=4, validate_every=8, checkpoint_every=3, threads=1)


def inputs(root: Path) -> tuple[Artifact, Artifact]:
    """A tokens and a tokenizer artifact with the files that training reads."""
    rng = np.random.default_rng(1)
    with Draft(root / "tokenize", kind="tokens", stage="tokenize") as out:
        for split, size in (("train", 4000), ("validation", 300)):
            np.save(out.path / f"0.{split}.tokens.npy", rng.integers(30, size=size).astype(np.uint16))
        tokens = out.publish({"vocab_size": 30, "end_id": 0})
    with Draft(root / "tokenizer", kind="tokenizer", stage="tokenizer") as out:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (out.path / name).write_text(f'"{name}"')
        tokenizer = out.publish({})
    return tokens, tokenizer


def run(root: Path, name: str, cfg: Train = CFG) -> Artifact:
    tokens, tokenizer = (Artifact.open(root / stage) for stage in ("tokenize", "tokenizer"))
    with Draft(root / name / "train", kind="model", stage="train", scratch=root / name / "scratch") as out:
        return train(cfg, SHAPE, 7, tokens, tokenizer, out)


def test_the_model_folder_is_complete_and_loads(tmp_path: Path) -> None:
    inputs(tmp_path)
    artifact = run(tmp_path, "a")
    assert set(artifact.files) == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "loss.csv",
    }
    model = load_pretrained(artifact.path)
    assert model.config.context == 16 and model.config.vocab_size == 30
    assert artifact.stats["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert artifact.stats["tokens_seen"] == 24 * 128
    assert 0 < artifact.stats["best_validation_loss"] <= artifact.stats["validation_loss"] < 5
    assert not (tmp_path / "a" / "scratch").exists()


def test_a_second_run_gives_the_same_bytes_and_leaves_the_settings_as_they_were(tmp_path: Path) -> None:
    inputs(tmp_path)
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    first = run(tmp_path, "a")
    torch.rand(3)  # the surrounding random state must not matter
    assert run(tmp_path, "b").digest == first.digest
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]


def test_the_circumstances_that_change_bits_are_in_the_key(tmp_path: Path) -> None:
    inputs(tmp_path)
    one = run(tmp_path, "a")
    two = run(tmp_path, "b", CFG.model_copy(update={"precision": "bfloat16"}))
    three = run(tmp_path, "c", CFG.model_copy(update={"precision": "float32"}))
    assert len({two.key, three.key}) == 2
    assert one.key in {two.key, three.key}  # the drafts here carry no recipe: auto is one of the two


def test_a_split_too_short_to_validate_trains_without(tmp_path: Path) -> None:
    inputs(tmp_path)
    with Draft(tmp_path / "tokenize", kind="tokens", stage="tokenize") as out:
        np.save(out.path / "0.train.tokens.npy", np.zeros(400, dtype=np.uint16))
        np.save(out.path / "0.validation.tokens.npy", np.zeros(0, dtype=np.uint16))
        out.publish({"vocab_size": 30, "end_id": 0})
    assert "validation_loss" not in run(tmp_path, "a").stats


class Noting:
    """An observer that keeps the numbers of each step."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def progress(self, done: int, total: int, unit: str) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.seen.setdefault(step, {}).update(values)


def test_the_share_of_the_machines_arithmetic_is_told_and_counts_attention(tmp_path: Path) -> None:
    tokens, tokenizer = inputs(tmp_path)
    noting = Noting()
    with Draft(tmp_path / "train", kind="model", stage="train", observer=noting) as out:
        train(CFG, SHAPE, 7, tokens, tokenizer, out)
    assert all(0 < values["train/mfu"] < 1.5 for values in noting.seen.values()) and len(noting.seen) == 24
    network = build(SHAPE, 30, 0, 7)
    matrices = sum(p.numel() for n, p in network.named_parameters() if p.dim() > 1 and "embed" not in n)
    attention = 4 * SHAPE.num_layers * SHAPE.context * SHAPE.width
    assert operations_per_token(network, SHAPE, CFG) == 3 * (2 * matrices + attention)


SETTINGS: list[dict[str, Any]] = [
    {"optimizer": "muon"},
    {"optimizer": "adam"},
    {"optimizer": "sgd"},
    {"lr": 1e-2},
    {"embedding_lr": 1e-3},
    {"head_lr": 1e-3},
    {"norm_lr": 1e-3},
    {"weight_decay": 0.5},
    {"warmup_steps": 0},
    {"schedule": "cosine"},
    {"decay_share": 0.1},
    {"clip_norm": 0.01},
    {"z_loss": 0.1},
    {"label_smoothing": 0.1},
    {"ema": 0.9},
    {"document_mask": True},
    {"batch_warmup_steps": 4},
    {"sequence_warmup_steps": 4},
    {"batch_tokens": 64},
    {"stop_after": 4},
]
SHORT = CFG.model_copy(update={"steps": 6, "warmup_steps": 2, "validate_every": 3})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact]:
    """A folder of inputs, and a short training on them."""
    root = tmp_path_factory.mktemp("plain")
    inputs(root)
    return root, run(root, "plain", SHORT)


def changed(root: Path, setting: dict[str, Any]) -> Artifact:
    return run(root, "changed", Train.model_validate({**SHORT.model_dump(), **setting}))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: next(iter(setting)))
def test_each_setting_that_changes_what_is_learnt_reaches_the_saved_weights(
    plain: tuple[Path, Artifact], setting: dict[str, Any]
) -> None:
    root, unchanged = plain
    assert changed(root, setting).files["model.safetensors"] != unchanged.files["model.safetensors"]


@pytest.mark.parametrize("setting", [{"recompute": True}, {"keep_checkpoints": 1}, {"validate_every": 2}], ids=str)
def test_what_only_saves_memory_or_disk_changes_no_weight(
    plain: tuple[Path, Artifact], setting: dict[str, Any]
) -> None:
    root, unchanged = plain
    assert changed(root, setting).files["model.safetensors"] == unchanged.files["model.safetensors"]


def test_patience_publishes_the_weights_of_the_best_validation(tmp_path: Path) -> None:
    inputs(tmp_path)  # random tokens: what is learnt of them helps with no others
    settings = {"steps": 400, "validate_every": 4, "lr": 2e-2, "schedule": "cosine"}
    cfg = Train.model_validate({**CFG.model_dump(), **settings})
    ended = run(tmp_path, "a", cfg.model_copy(update={"patience": 3}))
    assert ended.stats["ended"] == "patience" and 0 < ended.stats["steps"] < 300
    assert ended.stats["validation_loss"] == ended.stats["best_validation_loss"]
    again = run(tmp_path, "b", cfg.model_copy(update={"stop_after": ended.stats["steps"]}))
    assert again.files == ended.files


def test_a_budget_leaves_a_complete_model_that_stop_after_builds_again(tmp_path: Path) -> None:
    inputs(tmp_path)
    short = run(tmp_path, "a", CFG.model_copy(update={"max_minutes": 1e-9}))
    steps = short.stats["steps"]
    assert short.stats["ended"] == "max_minutes" and 0 < steps < 24
    manifest = json.loads((short.path / MANIFEST).read_text())
    assert manifest["circumstances"]["steps"] == steps
    assert load_pretrained(short.path).config.context == 16 and short.stats["validation_loss"] > 0
    again = run(tmp_path, "b", CFG.model_copy(update={"stop_after": steps}))
    assert again.files == short.files
    assert not (tmp_path / "a" / "scratch").exists()


def test_epochs_become_steps_of_the_data(tmp_path: Path) -> None:
    inputs(tmp_path)
    cfg = CFG.model_copy(update={"epochs": 0.5, "validate_epochs": 0.25, "batch_warmup_steps": 4})
    noting = Noting()
    tokens, tokenizer = (Artifact.open(tmp_path / stage) for stage in ("tokenize", "tokenizer"))
    with Draft(tmp_path / "train", kind="model", stage="train", observer=noting) as out:
        artifact = train(cfg, SHAPE, 7, tokens, tokenizer, out)
    # 248 windows an epoch, 8 a batch; the first four batches have 2, 4, 6 and 8: 4 + 104 / 8 steps are 124 windows.
    assert artifact.stats["steps"] == 17 and artifact.stats["tokens_seen"] == 124 * 16
    assert [step for step, values in noting.seen.items() if "validation/loss" in values] == [8, 16, 17]


SLOWED = """
import runpy, sys, time
from pathlib import Path
from llm_core import train as loop
advance = loop._advance
def slow(state, *rest):
    point = advance(state, *rest)
    print(state.step, flush=True)
    time.sleep(0.02)
    return point
loop._advance = slow
runpy.run_path(sys.argv[1])["run"](Path(sys.argv[2]), "killed")
"""


def kill_after(root: Path, step: int) -> None:
    """Run the stage in a process of its own and SIGKILL it soon after it has finished `step`."""
    command = [sys.executable, "-c", SLOWED, __file__, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= step:
                break
        time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.e2e
def test_after_sigkill_a_rerun_gives_the_unbroken_runs_bytes(tmp_path: Path) -> None:
    inputs(tmp_path)
    unbroken = run(tmp_path, "whole")
    for step in (5, 14):
        kill_after(tmp_path, step)
        assert not (tmp_path / "killed" / "train").exists()
        found = {int(path.name.removeprefix("step-")) for path in (tmp_path / "killed" / "scratch").glob("step-*")}
        assert max(found) >= step - 3
    resumed = run(tmp_path, "killed")
    assert resumed.files["model.safetensors"] == unbroken.files["model.safetensors"]
    assert resumed.digest == unbroken.digest
