"""Machines: how fast they multiply matrices, how much memory they have."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from llm_core.devices import multiplies_bfloat16, pick_precision, product_rate, usable_threads

MEASURED_MFU = 0.6
"""Share of `product_rate` that training reached: 0.61 at 10M parameters, 0.75 at 30M; small networks reach less.

`benchmarks/training.py` counts causal attention half and measures a larger product, so its shares are lower.
"""
ACCELERATOR_MFU = 0.4
"""Share of the published peak that large trainings report: 0.46 (PaLM, Chowdhery et al., 2022), 0.38 to 0.43 (Llama 3,
Dubey et al., 2024)."""


@dataclass(frozen=True)
class Machine:
    """One machine, or one accelerator of it."""

    name: str
    float32_rate: float
    """Floating point operations a second of matrix products in float32."""
    bfloat16_rate: float
    memory_bytes: int
    mfu: float
    """Model FLOPs utilisation: the share of the rate that training is expected to reach (an assumption)."""
    source: str
    """Where the numbers are from."""

    def rate(self, dtype: torch.dtype) -> float:
        """Its matrix products' operations a second."""
        return self.float32_rate if dtype == torch.float32 else self.bfloat16_rate


ACCELERATORS = {
    "a100": Machine(
        "a100", 19.5e12, 312e12, 80_000_000_000, ACCELERATOR_MFU, "NVIDIA A100 80GB datasheet, dense, without TF32"
    ),
    "h100": Machine(
        "h100", 67e12, 989e12, 80_000_000_000, ACCELERATOR_MFU, "NVIDIA H100 SXM datasheet, dense, without TF32"
    ),
}


def this_machine(seconds: float = 0.5) -> Machine:
    """The CPU that this runs on; its rates are measured, in `seconds` together."""
    threads = usable_threads()
    cpu = torch.device("cpu")
    bfloat16 = multiplies_bfloat16(cpu)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        float32_rate = product_rate(cpu, torch.float32, seconds / 2)
        bfloat16_rate = product_rate(cpu, torch.bfloat16, seconds / 2) if bfloat16 else float32_rate
    finally:
        torch.set_num_threads(before)
    source = f"{threads} CPU threads, measured in {seconds:g} s"
    return Machine("this machine", float32_rate, bfloat16_rate, psutil.virtual_memory().total, MEASURED_MFU, source)


def precision_on(machine: Machine, choice: str) -> torch.dtype:
    """The number format that a recipe's precision means on a machine; every accelerator here multiplies bfloat16."""
    if machine.name in ACCELERATORS:
        return torch.float32 if choice == "float32" else torch.bfloat16
    return pick_precision(choice, torch.device("cpu"))
