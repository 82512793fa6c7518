"""What the sides of `benchmarks/training.py` train, and every setting that is tried."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import PEERS, TRANSFORMERS

# The same for all sides: threads that wait sleep, since CPU seconds are counted; compiled code is kept; compilers work
# in the process that counts.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "TORCHINDUCTOR_CACHE_DIR": str(PEERS / "inductor"),
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
THREADS = min(2, len(os.sched_getaffinity(0)))
VOCAB_SIZE, CONTEXT, BATCH = 8192, 256, 16
BATCH_TOKENS = BATCH * CONTEXT
VALIDATION_WINDOWS = 128
WARM_STEPS = 4

OURS, MUON = "tidemill", "tidemill with Muon"
TRAINER, PURE, PLAIN = "Trainer", "Trainer with bfloat16 weights", "plain loop"
TITLES = {
    TRAINER: f"{TRANSFORMERS.title} Trainer",
    PURE: f"{TRANSFORMERS.title} Trainer with bfloat16 weights",
    PLAIN: "plain loop",
}


@dataclass(frozen=True)
class Size:
    """A model that all sides train."""

    name: str
    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    budget_steps: int
    """Steps that the Trainer gets in `time to loss`."""

    @property
    def flops_per_token(self) -> int:
        """6 for each weight of a matrix product, the head's included, and 6 L C T for attention: 12, causal half."""
        block = 4 * self.width**2 + 3 * self.width * self.mlp_width
        matrices = self.num_layers * block + VOCAB_SIZE * self.width
        return 6 * matrices + 6 * self.num_layers * self.width * CONTEXT


SIZES = (
    Size("10M", num_layers=8, width=256, num_heads=4, mlp_width=704, budget_steps=244),
    Size("30M", num_layers=7, width=512, num_heads=8, mlp_width=1408, budget_steps=146),
)

Setting = dict[str, Any]
TRAINER_BASE: Setting = {
    "attention": "eager",
    "weights": "float32",
    "autocast": "bfloat16",
    "compile": "default",
    "optimizer": "adamw_torch_fused",
    "accumulation": 1,
    "workers": 0,
    "lr": 2e-3,
    "schedule": "cosine",
    "warmup_steps": 20,
}
TRAINER_SETTINGS: dict[str, Setting] = {
    "float32": {"compile": None, "attention": "sdpa", "autocast": "float32"},
    "bfloat16 autocast, sdpa": {"compile": None, "attention": "sdpa"},
    "bfloat16 autocast, eager attention": {"compile": None},
    "compiled, sdpa": {"attention": "sdpa"},
    "compiled, eager attention": {},
    "compiled, eager attention, adamw_torch": {"optimizer": "adamw_torch"},
    "compiled, eager attention, 2 x 2048 tokens": {"accumulation": 2},
    "compiled, eager attention, a dataloader worker": {"workers": 1},
    "compiled for max-autotune, eager attention": {"compile": "max-autotune-no-cudagraphs"},
}
PURE_BASE = TRAINER_BASE | {"weights": "bfloat16", "autocast": "float32"}
PURE_SETTINGS: dict[str, Setting] = {
    "compiled, sdpa": {"attention": "sdpa"},
    "compiled, eager attention": {},
}
PLAIN_BASE: Setting = {"attention": "plain", "compile": "default", "lr": 2e-3, "warmup_steps": 20}
PLAIN_SETTINGS: dict[str, Setting] = {
    "not compiled, sdpa": {"compile": None, "attention": "sdpa"},
    "compiled, sdpa": {"attention": "sdpa"},
    "compiled, attention written out": {},
    "compiled for max-autotune, attention written out": {"compile": "max-autotune-no-cudagraphs"},
}
PEER_SETTINGS = {
    TRAINER: (TRAINER_BASE, TRAINER_SETTINGS),
    PURE: (PURE_BASE, PURE_SETTINGS),
    PLAIN: (PLAIN_BASE, PLAIN_SETTINGS),
}
OURS_SETTING: Setting = {}
OURS_COMPILED: dict[str, Setting] = {
    OURS: {"compile": "on", "optimizer": "adamw"},
    MUON: {"compile": "on", "optimizer": "muon"},
}
"""By itself a run is compiled only where it is long enough to pay for it. Muon costs more a step than AdamW."""
