"""The train stage: a complete model folder, the same bytes on every run, also after SIGKILL."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model, Train
from llm_core.models import load_pretrained
from tasks.train import train

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
