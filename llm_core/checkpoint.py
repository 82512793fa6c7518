"""Checkpoints: safetensors and JSON in a folder each, written whole or not at all, verified when read.

``FOLDER/step-N/`` holds a ``state-R-of-SIZE.safetensors`` for each rank and ``checkpoint.json``, written last. The
identity in it says what the state belongs to, so that a run never goes on from another recipe's, other data's or
another CPU class's state. What each rank holds of a tensor is in there too, so that other numbers of ranks can read it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from llm_core.checkpoint_files import (
    CHECKPOINT_FORMAT,
    CheckpointError,
    Damaged,
    flush,
    lock_folder,
    put_in_place,
    read_manifest,
    remove,
    steps_in,
    sweep,
    write_manifest,
)
from llm_core.checkpoint_reading import read_step, verify_step
from llm_core.checkpoint_shards import Part, Wanted, WrongShard, describe, merge, shard_name, write_shard
from llm_core.ranks import Alone, RankError, Ranks, together

__all__ = ["CheckpointError", "Checkpoints", "Damaged", "Part", "Snapshot"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What was saved after `step` complete steps."""

    step: int
    tensors: Mapping[str, Tensor]
    """What this rank holds. A tensor without an entry in `parts` is the same on every rank; rank 0 writes it."""
    values: Mapping[str, Any]
    """JSON values; rank 0's are kept."""
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass
class Checkpoints:
    """The checkpoints of one run in `folder`: the last `keep`, the best, and the newest that it may go back to.

    From the first use until the end of the ``with`` (or `close`) no other process may use the folder. With several
    ranks each makes this object, and all call the same methods in the same order.
    """

    folder: Path
    identity: Mapping[str, Any]
    """Nested JSON values that must be equal for a resume: recipe, data digests, circumstances."""
    keep: int
    pin_every: int = 1
    """The newest checkpoint of a step that this divides is always kept, since a run may go back to it."""
    ranks: Ranks = field(default_factory=Alone)
    _lock: TextIO | None = field(default=None, init=False, repr=False)
    _entered: bool = field(default=False, init=False, repr=False)
    _damaged: set[int] = field(default_factory=set, init=False, repr=False)
    _buffers: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _writer: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)
    _pending: Future[None] | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Checkpoints:
        self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except CheckpointError as also:
            if problem is None:
                raise
            problem.add_note(f"and the last checkpoint was not saved: {also}")

    def close(self) -> None:
        """Wait for the last save, then let others use the folder."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()
            if self._lock is not None:
                self._lock.close()
            self._writer, self._lock, self._entered = None, None, False
            self._buffers.clear()

    def save(self, snapshot: Snapshot, wait: bool = True, score: float | None = None) -> None:
        """Write a checkpoint; after a kill at any moment it is there as a whole or not at all.

        Without `wait` the tensors are copied and a thread writes them: the live ones may change at once. A write that
        fails raises CheckpointError, from the next `save` or `wait` if this one did not wait. The checkpoint with the
        lowest `score` (or, without one, validation_loss in the values) is kept.
        """
        self.wait()
        self._enter()
        values: list[str] = []
        self._first(lambda: values.append(_as_json(snapshot, score)))  # at once: they may change like the tensors
        tensors = {name: t for name, t in snapshot.tensors.items() if self.ranks.rank == 0 or name in snapshot.parts}
        if wait:
            self._write(snapshot.step, tensors, snapshot.parts, *values)
            return
        self._writer = self._writer or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = self._writer.submit(self._write, snapshot.step, self._copy(tensors), snapshot.parts, *values)

    def wait(self) -> None:
        """Return when the last save is on disk; raise CheckpointError when it failed."""
        if self._pending is not None:
            pending = self._pending
            try:
                pending.result()
            finally:
                self._pending = None if pending.done() else pending

    def load_latest(self, wanted: Wanted | None = None) -> Snapshot | None:
        """The newest whole checkpoint, or None; damaged ones are logged and passed over.

        With `wanted`, only the slices it names are read. All ranks get the same step.
        Raises CheckpointError when the checkpoint belongs to something else than `identity`.
        """
        self.wait()
        self._enter()
        step = self._first(self._newest_whole)
        return None if step is None else self._read(step, wanted)

    def load(self, step: int, wanted: Wanted | None = None) -> Snapshot:
        """The checkpoint of one step; raises CheckpointError when it is not there as it was written."""
        self.wait()
        self._enter()
        self._first(lambda: self._check(step))
        return self._read(step, wanted)

    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, newest first."""
        return steps_in(self.folder)

    def clear(self) -> None:
        """Remove all checkpoints: the run is complete."""
        self.wait()
        self._enter()
        self._first(lambda: shutil.rmtree(self.folder, ignore_errors=True))
        self.close()

    def _enter(self) -> None:
        """Take the folder for this training, and clear away what a killed one left."""
        if self._entered:
            return
        self._first(self._take_folder)
        self._entered = True

    def _take_folder(self) -> None:
        self._lock = lock_folder(self.folder)
        with _told(self.folder):
            flush(self.folder.parent)
            sweep(self.folder)

    def _first(self, work: Callable[[], Any]) -> Any:
        """Let rank 0 work; what it gives, or its error, on all ranks."""
        return self._each(lambda: work() if self.ranks.rank == 0 else None)[0]

    def _each(self, work: Callable[[], Any]) -> list[Any]:
        try:
            return together(self.ranks, work)
        except RankError as problem:
            raise CheckpointError(str(problem)) from None

    def _copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors' values now, in memory that the next save uses again."""
        copies = {}
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            copies[name] = buffer.copy_(tensor.detach())
        self._buffers = copies
        return copies

    def _write(self, step: int, tensors: Mapping[str, Tensor], parts: Mapping[str, Part], values: str = "") -> None:
        draft = self.folder / f".step-{step}.draft"
        try:
            self._first(lambda: self._begin(draft))
            shards = self._each(lambda: self._write_shard(draft, tensors, parts))
            self._first(lambda: self._finish(draft, step, shards, values))
        except CheckpointError:
            if self.ranks.rank == 0:
                with contextlib.suppress(OSError):  # the first problem is the one to tell
                    sweep(self.folder)
            raise

    def _begin(self, draft: Path) -> None:
        with _told(draft):
            sweep(self.folder)
            draft.mkdir()

    def _write_shard(self, draft: Path, tensors: Mapping[str, Tensor], parts: Mapping[str, Part]) -> dict[str, Any]:
        rank = self.ranks.rank
        path = draft / shard_name(rank, self.ranks.size)
        with _told(path):
            return {"file": write_shard(path, tensors), "tensors": describe(tensors, parts, rank)}

    def _finish(self, draft: Path, step: int, shards: list[dict[str, Any]], values: str) -> None:
        """Seal the draft and move it into place, then remove what is no longer to be kept."""
        manifest = {
            "format": CHECKPOINT_FORMAT,
            "step": step,
            "identity": dict(self.identity),
            **json.loads(values),
            "shards": [shard["file"] for shard in shards],
        }
        with _told(draft):
            manifest["tensors"] = merge([shard["tensors"] for shard in shards])
            write_manifest(draft, manifest)
            flush(draft)
            put_in_place(draft, self.folder / f"step-{step}")
            self._damaged.discard(step)
            self._prune(step)

    def _prune(self, newest: int) -> None:
        """Remove all but the checkpoints to keep. Later steps than `newest` are of a course that was given up."""
        candidates = [step for step in self.steps() if step <= newest and step not in self._damaged]
        kept = set(candidates[: self.keep])
        kept |= set([step for step in candidates if step % self.pin_every == 0][:1])
        scores = {step: score for step in candidates if (score := self._score(step)) is not None}
        if scores:
            kept.add(min(scores, key=lambda step: (scores[step], step)))
        for step in self.steps():
            if step not in kept:
                remove(self.folder / f"step-{step}")

    def _score(self, step: int) -> float | None:
        try:
            score: float | None = read_manifest(self.folder / f"step-{step}")["score"]
        except (Damaged, CheckpointError):  # whom this concerns is who loads it
            return None
        return score

    def _newest_whole(self) -> int | None:
        for step in self.steps():
            path = self.folder / f"step-{step}"
            try:
                verify_step(path, self.identity)
            except Damaged as problem:
                log.warning("%s: %s; going back to the checkpoint before it", path, problem)
                self._damaged.add(step)
            else:
                return step
        return None

    def _check(self, step: int) -> None:
        path = self.folder / f"step-{step}"
        try:
            verify_step(path, self.identity)
        except Damaged as problem:
            there = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(f"{path}: {problem}; the steps that are there: {there}") from None

    def _read(self, step: int, wanted: Wanted | None) -> Snapshot:
        tensors, values = read_step(self.folder / f"step-{step}", wanted)
        return Snapshot(step=step, tensors=tensors, values=values)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong as a CheckpointError that names the file and what to do."""
    try:
        yield
    except WrongShard as problem:
        raise CheckpointError(f"{path}: the state cannot be saved: {problem}") from None
    except OSError as problem:
        raise CheckpointError(
            f"{problem.filename or path}: the checkpoint cannot be written ({problem.strerror or problem}); "
            f"free space or set the rights of its folder, and run again to go on from the checkpoint before"
        ) from None


def _as_json(snapshot: Snapshot, score: float | None) -> str:
    score = snapshot.values.get("validation_loss") if score is None else score
    try:
        return json.dumps({"values": dict(snapshot.values), "score": score}, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"step {snapshot.step}: the values cannot be saved ({problem})") from None
