"""Which device computes, in which number format, and what of that decides the last bits of a result."""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llm_core.workers import available_cores

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device() -> torch.device:
    """The first CUDA device where there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 multiply-add (CPU: AMX or AVX-512 BF16); emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def pick_precision(choice: str, device: torch.device) -> torch.dtype:
    """The number format named by a recipe; ``auto`` takes bfloat16 where the hardware multiplies it."""
    if choice == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return PRECISIONS[choice]


def pick_scoring_precision(device: torch.device) -> torch.dtype:
    """What probabilities are computed in: float32 on CPUs, where bfloat16 costs time here instead of saving it.

    The demo's held-out documents took 115 CPU seconds in bfloat16 and 65 in float32.
    """
    return torch.float32 if device.type == "cpu" else pick_precision("auto", device)


def usable_threads() -> int:
    """CPU threads that this process may use: one for each core, or as many as OMP_NUM_THREADS allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # the others are for nested loops
    return min(available_cores(), int(allowed)) if allowed.isdecimal() and int(allowed) else available_cores()


@contextmanager
def computing(threads: int) -> Iterator[int]:
    """Run on `threads` CPU threads (0: `usable_threads`) with deterministic kernels.

    Gives the number of threads in force; both settings are put back afterwards.
    """
    _keep_freed_memory()
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    torch.set_num_threads(threads or usable_threads())
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before writing it; filling it would cost a pass over every buffer.
    deterministic.fill_uninitialized_memory = False
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        deterministic.fill_uninitialized_memory = filled


def _keep_freed_memory() -> None:
    """Let glibc keep what large tensors gave back instead of returning it to the system page by page.

    Each step makes and frees the same tensors; to fault their pages in anew took a tenth of a training's time.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        libc = ctypes.CDLL(None)
        for option, size in ((M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26), (M_MMAP_THRESHOLD, 2**30)):
            libc.mallopt(option, size)


def circumstances(device: torch.device, dtype: torch.dtype, threads: int) -> dict[str, str | int]:
    """What besides recipe, data and code decides the bits of trained weights."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "device": device.type,
        "capability": name,
        "precision": str(dtype).removeprefix("torch."),
        "threads": threads,
    }


def product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.1, size: int = 1024) -> float:
    """Operations a second of a product of two matrices of `size` squared: the median over `seconds`.

    What else runs on the machine slows it down, as it slows the training.
    """
    numbers = torch.Generator().manual_seed(0)  # the process's own random numbers are left alone
    a = torch.randn(size, size, generator=numbers).to(device, dtype)
    (a @ a)[0, 0].item()  # the first product also prepares the kernel
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for a GPU too
        times.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(times)
