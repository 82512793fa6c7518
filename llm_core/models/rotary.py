"""Rotary positions (RoPE; Su et al., 2021) and the ways to stretch them over texts longer than were trained on.

Pair d of a head turns by ``position * theta^(-2d/D)``. Each scaling changes these frequencies; its name and keys are
those of Hugging Face's ``rope_parameters``. Dimensions: T positions, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# What each kind of scaling needs, and may have besides.
SCALINGS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "default": (frozenset(), frozenset()),
    "linear": (frozenset({"factor"}), frozenset()),
    "dynamic": (frozenset({"factor", "original_max_position_embeddings"}), frozenset()),
    "llama3": (
        frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
        frozenset(),
    ),
    "yarn": (
        frozenset({"factor", "original_max_position_embeddings"}),
        frozenset({"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}),
    ),
    "longrope": (
        frozenset({"short_factor", "long_factor", "original_max_position_embeddings"}),
        frozenset({"factor", "attention_factor"}),
    ),
}
NEEDS_ORIGINAL = ("dynamic", "llama3", "yarn", "longrope")
# These look at the length of the text: their frequencies are made in every call.
BY_LENGTH = ("dynamic", "longrope")


def read_scaling(values: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Base and scaling out of ``config.json``, old and new spelling; raises ValueError for what is not known here."""
    given = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    theta = float(given.pop("rope_theta", None) or values.get("rope_theta") or 10_000.0)
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    if kind not in SCALINGS:
        raise ValueError(f"rope_type {kind!r} is not supported, only {', '.join(SCALINGS)}")
    scaling = {key: value for key, value in given.items() if value is not None}
    if kind in NEEDS_ORIGINAL:
        outside = values.get("original_max_position_embeddings")
        original = outside or scaling.get("original_max_position_embeddings") or values["max_position_embeddings"]
        scaling["original_max_position_embeddings"] = original
    if kind == "longrope" and "factor" not in scaling:
        scaling["factor"] = values["max_position_embeddings"] / scaling["original_max_position_embeddings"]
    needed, allowed = SCALINGS[kind]
    if lost := sorted(needed - scaling.keys()):
        raise ValueError(f"rope_type {kind!r} needs {', '.join(lost)} beside it")
    if strange := sorted(scaling.keys() - needed - allowed):
        raise ValueError(f"{strange[0]} {scaling[strange[0]]!r} is not supported for rope_type {kind!r}")
    return theta, ({"rope_type": kind, **scaling} if kind != "default" else {})


def rotary_table(
    theta: float, head_size: int, num_positions: int, scaling: Mapping[str, Any], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles of the first positions, each (num_positions, D), the two halves alike."""
    turns, size = frequencies(theta, head_size, num_positions, scaling, device)
    positions = torch.arange(num_positions, dtype=torch.float32, device=device)
    angles = torch.outer(positions, turns).repeat(1, 2)
    return (angles.cos(), angles.sin()) if size == 1 else (angles.cos() * size, angles.sin() * size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, T, heads, D) by its positions' angles, each ([B,] T, 1, D); dimension d pairs with d + D/2."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.chunk(2, dim=-1)[0], sin.chunk(2, dim=-1)[0]
    # Stacked and not joined end to end: the compiler makes whole vectors of the one, single numbers of the other.
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2).flatten(-2)


def frequencies(
    theta: float, head_size: int, length: int, scaling: Mapping[str, Any], device: torch.device | None = None
) -> tuple[Tensor, float]:
    """Radians per position (D/2) in a text of `length` tokens, and what cosine and sine are multiplied by."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=device) / head_size
    plain = theta**-exponents
    match scaling.get("rope_type", "default"):
        case "linear":  # positions in between (Chen et al., 2023)
            return plain / scaling["factor"], 1.0
        case "dynamic":
            return _dynamic(theta, exponents, head_size, length, scaling), 1.0
        case "llama3":
            return _llama3(plain, scaling), 1.0
        case "yarn":
            return _yarn(theta, plain, scaling), _yarn_size(scaling)
        case "longrope":
            return _longrope(plain, length, scaling), _longrope_size(scaling)
    return plain, 1.0


def _dynamic(theta: float, exponents: Tensor, head_size: int, length: int, scaling: Mapping[str, Any]) -> Tensor:
    """A base that grows with the text ("NTK-aware", as Peng et al., 2023, describe it)."""
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    growth = factor * max(length, original) / original - (factor - 1)
    stretched: Tensor = (theta * growth ** (head_size / (head_size - 2))) ** -exponents
    return stretched


def _llama3(plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Waves that fit the trained context stay, those longer than it are stretched, with a ramp between (Llama 3.1)."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    fits = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)  # waves in the trained context
    share = ((fits - low) / (high - low)).clamp(0, 1)
    return plain * (share + (1 - share) / scaling["factor"])


def _yarn(theta: float, plain: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    """Fast pairs as trained, slow ones interpolated, a ramp over the pairs between (YaRN; Peng et al., 2023)."""
    half, original = len(plain), scaling["original_max_position_embeddings"]

    def pair_that_turns(times: float) -> float:
        return half * math.log(original / (times * 2 * math.pi)) / math.log(theta)

    first = pair_that_turns(scaling.get("beta_fast") or 32)
    last = pair_that_turns(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    pairs = torch.arange(half, dtype=torch.float32, device=plain.device)
    slow = ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)
    return plain * (1 - slow) + plain / scaling["factor"] * slow


def _yarn_size(scaling: Mapping[str, Any]) -> float:
    def size(weight: float) -> float:
        return 0.1 * weight * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0

    if "attention_factor" in scaling:
        return float(scaling["attention_factor"])
    both = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return size(both[0]) / size(both[1]) if both[0] and both[1] else size(1.0)


def _longrope(plain: Tensor, length: int, scaling: Mapping[str, Any]) -> Tensor:
    """A searched factor for each pair, one set for short texts and one for long ones (LongRoPE; Ding et al., 2024)."""
    is_long = length > scaling["original_max_position_embeddings"]
    factors = scaling["long_factor"] if is_long else scaling["short_factor"]
    return plain / torch.tensor(factors, dtype=torch.float32, device=plain.device)


def _longrope_size(scaling: Mapping[str, Any]) -> float:
    if "attention_factor" in scaling:
        return float(scaling["attention_factor"])
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
