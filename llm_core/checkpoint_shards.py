"""Shards: the tensors of one rank in a safetensors file, hashed while they are written, read back as any slices.

The format (https://huggingface.co/docs/safetensors): the header's length as 8 bytes, little-endian; the header, JSON;
the tensors' bytes. It is written here and not by the library so that no second copy of a state is made in memory, and
so that the sha256 is that of the bytes that were meant, not of those that came to lie on the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 64

Shape = tuple[int, ...]
Wanted = Callable[[str, Shape], tuple[slice, ...] | None]
"""Which slices of a tensor of this name and whole shape a rank wants: () for all of it, None for nothing."""


class WrongShard(ValueError):
    """Tensors that do not fit the format, the manifest or each other; the message names the tensor."""


@dataclass(frozen=True)
class Part:
    """Which piece of a tensor a rank holds."""

    shape: Shape
    """Shape of the whole tensor."""
    start: Shape
    """Where the piece begins in it."""


def shard_name(rank: int, size: int) -> str:
    return f"state-{rank}-of-{size}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write `tensors` as a safetensors file and flush it to disk; gives its size and sha256."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so all are aligned
    header, offset = {}, 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise WrongShard(f"{name} is {tensor.dtype}; a checkpoint holds {', '.join(DTYPES.values())}")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    content = json.dumps(header).encode()
    content += b" " * (-(8 + len(content)) % ALIGNMENT)
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        for piece in _pieces(content, (tensors[name] for name in names)):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": 8 + len(content) + offset, "sha256": digest.hexdigest()}


def _pieces(header: bytes, tensors: Iterable[Tensor]) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def describe(tensors: Mapping[str, Tensor], parts: Mapping[str, Part], shard: int) -> dict[str, dict[str, Any]]:
    """What the manifest says of the tensors in a shard: type, whole shape, and the piece that lies there."""
    entries = {}
    for name, tensor in tensors.items():
        part = parts.get(name) or Part(tuple(tensor.shape), (0,) * tensor.dim())
        piece = {"shard": shard, "start": list(part.start), "shape": list(tensor.shape)}
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(part.shape), "pieces": [piece]}
    return entries


def merge(shards: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """One description of the tensors from those of all shards, whose pieces must make up each tensor."""
    merged: dict[str, dict[str, Any]] = {}
    for entries in shards:
        for name, entry in entries.items():
            known = merged.setdefault(name, {**entry, "pieces": []})
            if (known["dtype"], known["shape"]) != (entry["dtype"], entry["shape"]):
                raise WrongShard(
                    f"{name}: {known['dtype']} of shape {known['shape']} on one rank, "
                    f"{entry['dtype']} of shape {entry['shape']} on another"
                )
            known["pieces"] += entry["pieces"]
    check_tiling(merged)
    return merged


def check_tiling(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise WrongShard unless each tensor's pieces make it up: nothing twice, nothing missing, nothing beyond."""
    for name, entry in entries.items():
        boxes, sizes = [_box(piece) for piece in entry["pieces"]], entry["shape"]
        fits = all(len(box) == len(sizes) for box in boxes) and (
            all(0 <= low <= high <= size for box in boxes for (low, high), size in zip(box, sizes, strict=True))
            and not any(_volume(_intersect(a, b)) for a, b in combinations(boxes, 2))
            and sum(map(_volume, boxes)) == math.prod(sizes)
        )
        if not fits:
            raise WrongShard(f"{name}: the ranks' pieces {boxes} do not make up a tensor of shape {sizes}")


def check_shard(path: Path, shard: int, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise WrongShard unless the file holds just the pieces that the manifest's entries place in it."""
    expected = {
        name: (entry["dtype"], piece["shape"])
        for name, entry in entries.items()
        for piece in entry["pieces"]
        if piece["shard"] == shard
    }
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        found = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    for name in sorted(found.keys() ^ expected.keys()):
        raise WrongShard(f"{name} is in {'the file' if name in found else 'the manifest'} only")
    for name in found:
        if found[name] != expected[name]:
            raise WrongShard(f"{name} is {found[name]} in the file and {expected[name]} in the manifest")


def read_tensors(
    paths: Sequence[Path], entries: Mapping[str, Mapping[str, Any]], wanted: Wanted | None
) -> dict[str, Tensor]:
    """The tensors that `entries` describe, whole or the wanted slices; nothing else is read from the shards."""
    tensors = {}
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        for name, entry in entries.items():
            region = () if wanted is None else wanted(name, tuple(entry["shape"]))
            if region is not None:
                tensors[name] = _read(files, name, entry, region)
    return tensors


Box = list[tuple[int, int]]  # in each dimension: first, one past the last


def _read(files: Sequence[Any], name: str, entry: Mapping[str, Any], region: tuple[slice, ...]) -> Tensor:
    sizes = entry["shape"]
    cuts = [part.indices(size) for part, size in zip(region, sizes, strict=False)]
    assert len(region) <= len(sizes) and all(step == 1 for *_, step in cuts), f"{name}: {region}"
    box = [(low, max(low, high)) for low, high, _ in cuts] + [(0, size) for size in sizes[len(cuts) :]]
    for piece in entry["pieces"]:
        if _box(piece) == box:
            whole: Tensor = files[piece["shard"]].get_tensor(name)
            return whole
    dtype = next(dtype for dtype, letters in DTYPES.items() if letters == entry["dtype"])
    target = torch.empty([high - low for low, high in box], dtype=dtype)
    for piece in entry["pieces"]:
        common = _intersect(box, _box(piece))
        if _volume(common):
            source = files[piece["shard"]].get_slice(name)[_slices(common, piece["start"])]
            target[_slices(common, [low for low, _ in box])] = source
    return target


def _slices(box: Box, origin: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(low - first, high - first) for (low, high), first in zip(box, origin, strict=True))


def _box(piece: Mapping[str, Any]) -> Box:
    return [(start, start + size) for start, size in zip(piece["start"], piece["shape"], strict=True)]


def _intersect(a: Box, b: Box) -> Box:
    return [(max(p[0], q[0]), min(p[1], q[1])) for p, q in zip(a, b, strict=True)]


def _volume(box: Box) -> int:
    return math.prod(max(0, high - low) for low, high in box)
