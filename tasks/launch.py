"""Start the ranks of a training through torch's elastic launcher, watch them, and be one of them.

Three kinds of process: the stage; the launcher (``python -m tasks.launch FOLDER``), which starts the ranks anew when
one dies; the ranks (``python -m tasks.train FOLDER``). They share a folder: the job, what came of it, errors. Rank 0
tells of its steps on standard output, as JSON lines. Standard input is the line of life: when the stage wants to stop,
or is gone, it closes, and the ranks save a checkpoint and end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_core.artifact import Artifact, Draft, Interrupted
from llm_core.closure import ROOT
from llm_core.config import Model, Train
from llm_core.parallel import joined
from llm_core.signals import DeferredSignals

LOSING_RANKS_SECONDS = 30  # what the others get to end when one has died
OUTCOME = "outcome.json"


class RankFailed(ValueError):
    """A training whose ranks did not come to the end; the message names the rank and what it said."""


@dataclass(frozen=True)
class Fitted:
    """What a training gave besides the files."""

    stats: Mapping[str, Any]
    circumstances: Mapping[str, Any]


def launch(cfg: Train, architecture: Model, seed: int, tokens: Artifact, tokenizer: Artifact, out: Draft) -> Fitted:
    """Train on `cfg.ranks` processes of this machine; rank 0 writes the model's files into the draft's folder."""
    with tempfile.TemporaryDirectory(prefix="tidemill-ranks-") as name:
        folder = Path(name)
        _write_job(folder, cfg, architecture, seed, tokens, tokenizer, out)
        step = 0
        with _launcher(folder) as process, DeferredSignals(at_first=_closing(process)) as signals:
            assert process.stdout is not None
            for line in process.stdout:
                step = max(step, _relay(line, out))
        if (folder / OUTCOME).exists():
            return Fitted(**json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
        errors = _errors(folder)
        if not errors:
            signals.deliver(step, resumable=out.scratch is not None)
        raise RankFailed(_complaint(cfg, errors, out.scratch is not None))


def _write_job(
    folder: Path, cfg: Train, architecture: Model, seed: int, tokens: Artifact, tokenizer: Artifact, out: Draft
) -> None:
    draft = {
        "target": str(out.target.absolute()),
        "kind": out.kind,
        "stage": out.stage,
        "parents": dict(out.parents),
        "recipe": dict(out.recipe),
        "code": out.code,
        "scratch": None if out.scratch is None else str(out.scratch.absolute()),
        "memo": None if out.memo is None else str(out.memo.absolute()),
        "starts": None if out.starts is None else str(out.starts.absolute()),
    }
    inputs = {
        name: {"path": str(artifact.path.absolute()), "digest": artifact.digest}
        for name, artifact in (("tokens", tokens), ("tokenizer", tokenizer))
    }
    settings = {"train": cfg.model_dump(mode="json"), "model": architecture.model_dump(mode="json"), "seed": seed}
    (folder / "job.json").write_text(json.dumps({**settings, **inputs, "draft": draft}), encoding="utf-8")


@contextlib.contextmanager
def _launcher(folder: Path) -> Any:
    """The launcher's process, in a session of its own, so that Ctrl-C reaches the stage only, which passes it on."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, "PYTHONPATH": path}  # DDP would warn of what is meant so
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.launch", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _closing(process)()
        process.wait()


def _closing(process: subprocess.Popen[str]) -> Callable[[], None]:
    def close() -> None:
        if process.stdin is not None:
            process.stdin.close()

    return close


def _relay(line: str, out: Draft) -> int:
    """Pass on what rank 0 tells; gives its step. Other lines come from libraries."""
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        print(line, end="", file=sys.stderr)
        return 0
    if "metrics" in told:
        out.observer.metrics(*told["metrics"])
        return int(told["metrics"][0])
    out.observer.progress(*told["progress"])
    return 0


def _errors(folder: Path) -> list[dict[str, Any]]:
    """What went wrong, the cause first: input that a rank refuses, then what the launcher saw, then other errors."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("error-*.json")]
    return sorted(found, key=lambda error: (error["order"], error["rank"]))


def _complaint(cfg: Train, errors: list[dict[str, Any]], resumable: bool) -> str:
    if not errors:
        return "the ranks ended without a result and without an error"
    first = errors[0]
    if first["order"] == 0:
        return str(first["text"])
    restarts = f" after {cfg.max_restarts} restarts" if cfg.max_restarts else ""
    said = next(
        (f": {error['text']}" for error in errors if error["rank"] == first["rank"] and error["order"] == 2), ""
    )
    kept = "; run it again to go on from the last checkpoint" if resumable else ""
    return f"rank {first['rank']} of {cfg.ranks} {first['text']}{restarts}{said}{kept}"


class _Teller:
    """Rank 0's observer: a JSON line for everything, which the stage passes on to its own."""

    def progress(self, done: int, total: int, unit: str) -> None:
        _tell({"progress": [done, total, unit]})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        _tell({"metrics": [step, dict(values)]})


def _tell(told: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the stage is gone: standard input ends this rank, after a checkpoint
        os.write(1, (json.dumps(told) + "\n").encode())


def work_as_rank(folder: str, fit_model: Callable[..., Fitted]) -> int:
    """What each rank's process does; the exit code is 0 where beginning again would change nothing."""
    place, rank = Path(folder), int(os.environ["RANK"])
    threading.Thread(target=_end_with_the_stage, daemon=True).start()
    error = place / f"error-{rank}.json"
    error.unlink(missing_ok=True)
    try:
        fitted = _work(json.loads((place / "job.json").read_text(encoding="utf-8")), fit_model)
    except Interrupted:
        return 0
    except Exception as problem:
        refused = isinstance(problem, ValueError)
        text = str(problem) if refused else f"{type(problem).__name__}: {problem}"
        _note(error, rank, order=0 if refused else 2, text=text)
        return 0 if refused else 1
    if rank == 0:
        draft = place / f".{OUTCOME}"
        draft.write_text(json.dumps(asdict(fitted)), encoding="utf-8")
        draft.replace(place / OUTCOME)
    return 0


def _work(job: Mapping[str, Any], fit_model: Callable[..., Fitted]) -> Fitted:
    described = job["draft"]
    paths = {key: described[key] and Path(described[key]) for key in ("target", "scratch", "memo", "starts")}
    out = Draft(**{**described, **paths}, observer=_Teller())  # not entered: the stage made the folder
    inputs = [Artifact.peek(Path(job[name]["path"])) for name in ("tokens", "tokenizer")]  # verified by the stage
    assert [artifact.digest for artifact in inputs] == [job[name]["digest"] for name in ("tokens", "tokenizer")]
    with joined() as (ranks, checkpoint_ranks):
        settings = Train(**job["train"]), Model(**job["model"]), job["seed"]
        return fit_model(*settings, *inputs, out, ranks, checkpoint_ranks)


def _note(path: Path, rank: int, order: int, text: str) -> None:
    path.write_text(json.dumps({"rank": rank, "order": order, "text": text}), encoding="utf-8")


def _end_with_the_stage() -> None:
    """Wait until the stage's end of standard input is closed; then end, after a checkpoint where training is on."""
    os.read(0, 1)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path) -> int:
    """The launcher: start the ranks, and all of them anew when one dies; note which one could not be helped."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    cfg = Train(**json.loads((folder / "job.json").read_text(encoding="utf-8"))["train"])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=cfg.ranks,
        run_id=folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=cfg.max_restarts,
        shutdown_timeout=LOSING_RANKS_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "tasks.train", str(folder))
    except ChildFailedError as problem:
        rank, failure = min(problem.failures.items(), key=lambda item: (_order_of_death(item[1].exitcode), item[0]))
        code = failure.exitcode
        text = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        _note(folder / "error-launcher.json", rank, order=1, text=text)
        return 1
    return 0


def _order_of_death(exit_code: int) -> int:
    """What is rather a cause comes first: a signal, an error, the SIGTERM that the launcher sends the others."""
    return 2 if exit_code == -signal.SIGTERM else 0 if exit_code < 0 else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
