"""Hugging Face's Trainer as a side of `benchmarks/training.py`, run by the interpreter of its own environment.

    python benchmarks/peer_trainer.py ASSIGNMENT.json

Settings: `attention` sdpa or eager, `weights` and `autocast` float32 or bfloat16, `compile` (a mode, or nothing),
`optimizer`, `accumulation`, `workers`, `lr`, `schedule`, `warmup_steps`.
"""

from __future__ import annotations

# ruff: noqa: E402
import os
import sys
import tempfile

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from benchmarks.training_side import Assignment, Meter


class Windows(Dataset[dict[str, Tensor]]):
    """The windows as examples; the targets are given as they are, so that none is lost to a shift."""

    def __init__(self, assignment: Assignment) -> None:
        self._windows = torch.from_numpy(assignment.all_windows().astype("int64"))

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        row = self._windows[place]
        return {"input_ids": row[:-1], "labels": row[1:], "shift_labels": row[1:]}


class Metered(TrainerCallback):
    """Tells the meter of every optimizer step."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._meter.start()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._meter.step_done()


def main() -> None:
    """Train as assigned."""
    todo = Assignment.read(sys.argv[1])
    torch.set_num_threads(todo.threads)
    set_seed(todo.seed)
    model = build(todo)
    meter = Meter(todo, model)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=arguments(todo, folder),
            train_dataset=Windows(todo),
            data_collator=default_data_collator,
            callbacks=[Metered(meter)],
        ).train()


def build(todo: Assignment) -> LlamaForCausalLM:
    """The model of the assigned shape, initialised as transformers does."""
    config = LlamaConfig(
        vocab_size=todo.vocab_size,
        num_hidden_layers=todo.num_layers,
        hidden_size=todo.width,
        num_attention_heads=todo.num_heads,
        num_key_value_heads=todo.num_heads,
        intermediate_size=todo.mlp_width,
        max_position_embeddings=todo.context,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation=todo.setting["attention"],
    )
    return LlamaForCausalLM(config).to(getattr(torch, todo.setting["weights"]))


def arguments(todo: Assignment, folder: str) -> TrainingArguments:
    """The Trainer's arguments: nothing is logged, saved or evaluated by itself, which would only cost it time."""
    how = todo.setting
    return TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        max_steps=todo.steps,
        per_device_train_batch_size=todo.batch // how["accumulation"],
        gradient_accumulation_steps=how["accumulation"],
        train_sampling_strategy="sequential",
        dataloader_num_workers=how["workers"],
        dataloader_pin_memory=False,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        bf16=how["autocast"] == "bfloat16",
        torch_compile=how["compile"] is not None,
        torch_compile_mode=how["compile"],
        optim=how["optimizer"],
        learning_rate=how["lr"],
        lr_scheduler_type=how["schedule"],
        lr_scheduler_kwargs=how.get("schedule_settings"),
        warmup_steps=how["warmup_steps"],
        weight_decay=0.1,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        seed=todo.seed,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


if __name__ == "__main__":
    main()
