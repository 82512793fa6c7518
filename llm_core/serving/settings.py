"""How models are run: by which engine, in which precision, with how much of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_core.kernels import Precision

Backend = Literal["tidemill", "vllm", "llama.cpp"]


@dataclass(frozen=True)
class RunnerSettings:
    """How models are run."""

    precision: Precision = "float32"
    """Of weights, keys and values. float32 is what was trained and judged; the others are faster."""
    threads: int = 1
    max_running: int = 32
    """Answers that are written at the same time."""
    cache_bytes: int = 1 << 30
    """Most memory for one model's keys and values; vLLM has arguments of its own for it."""
    backend: Backend = "tidemill"
    """The engine: ours, or a program of somebody else that is started for each version."""
    backend_args: tuple[str, ...] = ()
    """Further arguments of that program."""
    start_seconds: float = 900.0
    """How long that program may take until it is well; vLLM compiles for minutes."""


DEFAULT_SETTINGS = RunnerSettings()
