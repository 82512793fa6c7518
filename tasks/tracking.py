"""MLflow: one run per intent, metrics through a local spool, versions and aliases of the registry.

With `logged_model`, the only module of the tasks that knows MLflow. Run ids are passed, nothing asks for "the latest"
or an active run. Training never waits for the tracker: metrics are appended to a file and a thread ships them;
resending after an outage is safe, since MLflow stores an identical (key, step, time, value) once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from llm_core.artifact import Artifact
from llm_core.config import Recipe
from tasks.processes import ServiceError, find
from tasks.services import CONFIGURED_URI, mlflow_store, prepare_mlflow, tracking_uri
from tasks.workspace import Workspace

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.data.dataset_source_registry import resolve_dataset_source  # noqa: E402
from mlflow.data.meta_dataset import MetaDataset  # noqa: E402
from mlflow.entities import DatasetInput, Metric, Param, RunStatus, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

logger = logging.getLogger(__name__)

SYSTEM_SECONDS = 5.0
SHIP_SECONDS = 1.0
SERVING_EXPERIMENT = "serving"
"""What traces of served requests go to."""
BATCH_METRICS = 800
LONGEST_DESCRIPTION = 5000  # what MLflow's table holds
"""MLflow takes at most 1,000 metrics in one call."""
LONGEST_LINE_BYTES = 2**16
MODEL_FOLDER = "artifacts/model"
"""Where a version's MLflow model holds the model artifact."""
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"


@dataclass(frozen=True)
class Version:
    """A registered model version."""

    line: str
    number: int
    run_id: str
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """LINE@NUMBER, as people write it."""
        return f"{self.line}@{self.number}"


class Tracker:
    """The runs and the registry of one home."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        prepare_mlflow(ws.home)
        uri = tracking_uri(ws.home)
        self._is_ours = uri == mlflow_store(ws.home)
        mlflow.set_tracking_uri(uri)
        self.client = MlflowClient(uri)

    def open_run(self, recipe: Recipe, intent: str, tags: Mapping[str, str]) -> str:
        """The run of this intent (recipe, data and code): reopened if a killed flow began it, created otherwise."""
        experiment = self._experiment(recipe.register_.line)
        found = self.client.search_runs([experiment], f"tags.`tidemill.intent` = '{intent}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            self.client.update_run(run_id, status="RUNNING")
        else:
            named = {**tags, "tidemill.intent": intent}
            run = self.client.create_run(experiment, run_name=f"{recipe.name}-{intent[:8]}", tags=named)
            run_id = str(run.info.run_id)
        params = [Param(key, str(value)) for key, value in _flat(recipe.resolved()).items()]
        self.client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
        return run_id

    def close_run(self, run_id: str, succeeded: bool) -> None:
        """Mark the run as finished or failed."""
        self.client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED if succeeded else RunStatus.FAILED))

    def log_stage(self, run_id: str, artifact: Artifact, md5: str) -> None:
        """A stage's numbers as metrics, its digests as tags, and documents and tokens as MLflow datasets."""
        now = int(time.time() * 1000)
        numbers = {key: float(value) for key, value in _flat(artifact.stats).items() if _is_number(value)}
        metrics = [Metric(f"{artifact.stage}/{key}", value, now, 0) for key, value in numbers.items()]
        tags = {f"dvc.out.{artifact.stage}": md5, f"sha256.{artifact.stage}": artifact.digest}
        self.client.log_batch(run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in tags.items()])
        if artifact.kind in ("documents", "tokens"):
            self._log_dataset(run_id, artifact, md5)

    def find_version(self, line: str, key: str) -> Version | None:
        """The version whose model has this key, if one was registered."""
        found = self.client.search_model_versions(f"name = '{line}' and tags.`tidemill.key` = '{key}'")
        return _version(found[0]) if found else None

    def create_version(self, line: str, run_id: str, folder: Path, tags: Mapping[str, str]) -> Version:
        """Log the model folder to its run (as code over safetensors, no pickle) and register it with its tags."""
        with suppress(MlflowException):  # the line exists already
            self.client.create_registered_model(line)
        from tasks.logged_model import log_model  # imports torch

        model_id = log_model(run_id, folder, Path(MODEL_FOLDER).name)
        # The server, unlike the SQLite store, wants the model's id beside its address.
        made = self.client.create_model_version(line, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id)
        return _version(made)

    def tag_version(self, version: Version, tags: Mapping[str, str]) -> None:
        """Add tags to a version."""
        for name, value in tags.items():
            self.client.set_model_version_tag(version.line, str(version.number), name, value)

    def describe_version(self, version: Version, text: str) -> None:
        """What the registry's page shows of a version, in Markdown; what a person wrote there stays."""
        present = self.client.get_model_version(version.line, str(version.number)).description
        if not present or present.startswith(f"# {version.name}\n"):
            shown = text if len(text) <= LONGEST_DESCRIPTION else f"{text[: LONGEST_DESCRIPTION - 2]} …"
            self.client.update_model_version(version.line, str(version.number), shown)

    def log_files(self, run_id: str, texts: Mapping[str, str], files: tuple[Path, ...] = ()) -> None:
        """Store small texts (by file name) and files under the run's `lineage` folder."""
        for name, text in texts.items():
            self.client.log_text(run_id, text, f"lineage/{name}")
        for path in files:
            self.client.log_artifact(run_id, str(path), "lineage")

    def log_report(self, run_id: str, page: Path, numbers: Mapping[str, float]) -> None:
        """Store a page for people under the run's `reports` folder, and its numbers as metrics."""
        self.client.log_artifact(run_id, str(page), "reports")
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()])

    def read_file(self, run_id: str, name: str) -> str:
        """A text that `log_files` stored."""
        return Path(self.client.download_artifacts(run_id, f"lineage/{name}")).read_text(encoding="utf-8")

    def versions(self, line: str | None = None) -> list[dict[str, Any]]:
        """Every version as plain values, newest first within its line."""
        lines = [line] if line else [model.name for model in self.client.search_registered_models()]
        return [row for name in lines for row in self._versions_of(name)]

    def _versions_of(self, line: str) -> list[dict[str, Any]]:
        found = [_version(item) for item in self.client.search_model_versions(f"name = '{line}'")]
        # A search leaves the aliases out; the line holds them, by name.
        aliases = self.client.get_registered_model(line).aliases.items() if found else ()
        ordered = sorted(found, key=lambda version: -version.number)
        return [
            {**vars(version), "aliases": [name for name, number in aliases if int(number) == version.number]}
            for version in ordered
        ]

    def version(self, line: str, number: int) -> Version:
        """One version; an unknown one is an error that lists those that exist."""
        try:
            return _version(self.client.get_model_version(line, str(number)))
        except MlflowException:
            known = ", ".join(str(item["number"]) for item in self.versions(line)) or "none"
            raise ValueError(f"{line}@{number}: no such version; {line} has: {known}") from None

    def model_folder(self, version: Version) -> Path:
        """Local folder of a version's model artifact, downloaded where the store is remote."""
        place = self.client.get_model_version_download_uri(version.line, str(version.number))
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{place}/{MODEL_FOLDER}"))

    def point(self, line: str, alias: str, number: int) -> None:
        """Make an alias point at a version that exists; a no-op where it does already."""
        self.client.get_model_version(line, str(number))
        aliases: Mapping[str, Any] = self.client.get_registered_model(line).aliases
        if str(aliases.get(alias)) != str(number):
            self.client.set_registered_model_alias(line, alias, str(number))

    def unpoint(self, line: str, alias: str) -> None:
        """Make an alias point at nothing; a no-op where it does already."""
        if alias in self.client.get_registered_model(line).aliases:
            self.client.delete_registered_model_alias(line, alias)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = (self._ws.home / "mlflow" / "artifacts").as_uri() if self._is_ours else None
        return str(self.client.create_experiment(name, artifact_location=place))

    def _log_dataset(self, run_id: str, artifact: Artifact, md5: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a local path has two equal interpretations
            source = resolve_dataset_source(str(artifact.path))
        # MLflow caps digests at 36 characters.
        dataset = MetaDataset(source, name=artifact.stage, digest=md5[:36])  # type: ignore[abstract]
        self.client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), [])])


class MetricSpool:
    """An observer that appends metrics to a local file; a thread ships them and samples the system meanwhile."""

    def __init__(self, client: MlflowClient, run_id: str, path: Path) -> None:
        self._client, self._run_id, self._path = client, run_id, path
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_half_line(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        self._shipped = _shipped_offset(path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ship_until_stopped, name="metric-spool", daemon=True)
        self._writing = threading.Lock()

    def __enter__(self) -> MetricSpool:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._ship()
        except Exception as problem:  # the tracker is away: the spool stays and the next run of this intent ships it
            logger.warning("%s: metrics not shipped yet (%s); they go with the next run", self._path, problem)
        self._file.close()

    def progress(self, done: int, total: int, unit: str) -> None:
        """Progress is not a metric."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        finite = {key: value for key, value in values.items() if math.isfinite(value)}
        if len(finite) < len(values):
            finite["nonfinite"] = 1.0  # NaN breaks a run's page in MLflow
        line = json.dumps({"step": step, "time": int(time.time() * 1000), "values": finite})
        with self._writing:
            self._file.write(line + "\n")
            self._file.flush()

    def _ship_until_stopped(self) -> None:
        began, samples = time.monotonic(), 0
        psutil.cpu_percent()  # each call tells what was used since the last one
        while not self._stop.wait(SHIP_SECONDS):
            if time.monotonic() - began >= samples * SYSTEM_SECONDS:
                self.metrics(samples, _system_metrics())
                samples += 1
            try:
                self._ship()
            except Exception as problem:  # kept in the spool, tried again
                logger.debug("%s: will ship later: %s", self._path, problem)

    def _ship(self) -> None:
        """Send what was appended since the last success, in batches; the offset moves only after each success."""
        with open(self._path, "rb") as file:
            file.seek(self._shipped)
            batch: list[Metric] = []
            end = self._shipped
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line)
                batch += [Metric(key, value, entry["time"], entry["step"]) for key, value in entry["values"].items()]
                end += len(line)
                if len(batch) > BATCH_METRICS:
                    self._send(batch, end)
                    batch = []
            self._send(batch, end)

    def _send(self, batch: list[Metric], end: int) -> None:
        if batch:
            self._client.log_batch(self._run_id, metrics=batch)
            self._shipped = end
            _write_offset(self._path, end)


def _system_metrics() -> dict[str, float]:
    """Under the names that MLflow's own system metrics have, so that its page shows them."""
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": (memory.total - memory.available) / 1e6,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
        "system/disk_available_megabytes": psutil.disk_usage("/").free / 1e6,
    }


def _version(item: Any) -> Version:
    return Version(line=item.name, number=int(item.version), run_id=item.run_id, tags=dict(item.tags))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cut_half_line(spool: Path) -> None:
    """Drop the end of a line that a killed run was writing, else the next line would be lost with it."""
    if not spool.exists():
        return
    with open(spool, "rb+") as file:
        start = max(0, spool.stat().st_size - LONGEST_LINE_BYTES)
        file.seek(start)
        file.truncate(start + file.read().rfind(b"\n") + 1)


def _offset_path(spool: Path) -> Path:
    return spool.with_suffix(".shipped")


def _write_offset(spool: Path, offset: int) -> None:
    draft = spool.with_suffix(".draft")
    draft.write_text(str(offset))
    os.replace(draft, _offset_path(spool))


def _shipped_offset(spool: Path) -> int:
    place = _offset_path(spool)
    return int(place.read_text()) if place.exists() else 0


def traces_endpoint(home: Path) -> tuple[str, dict[str, str]]:
    """Where MLflow takes OpenTelemetry spans, and the headers that put them into the experiment of served requests.

    Raises ServiceError where MLflow is a database without a server.
    """
    server = find(home, "mlflow")
    addresses = (CONFIGURED_URI, server.url if server else None)
    uri = next((address for address in addresses if address and address.startswith("http")), None)
    if uri is None:
        raise ServiceError("no MLflow server takes traces here; tidemill up starts one, or set MLFLOW_TRACKING_URI")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(SERVING_EXPERIMENT)
    number = experiment.experiment_id if experiment else client.create_experiment(SERVING_EXPERIMENT)
    return f"{uri.rstrip('/')}/v1/traces", {"x-mlflow-experiment-id": number}
