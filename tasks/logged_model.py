"""A model folder as MLflow keeps it: models from code over safetensors, no pickle, with a typed signature."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

from llm_core.pipeline.batch import Kind, Writes, WritingOptions, scorer_class, task_of

REQUIREMENTS = ("torch", "safetensors", "tokenizers", "numpy", "pandas")
ENTITY = Object(
    [
        Property("entity_group", DataType.string),
        Property("score", DataType.double),
        Property("word", DataType.string),
        Property("start", DataType.long),
        Property("end", DataType.long),
    ]
)
TYPES: Mapping[Kind, Any] = {
    "text": DataType.string,
    "count": DataType.long,
    "number": DataType.double,
    "vector": Array(DataType.double),
    "entities": Array(ENTITY),
}


def log_model(run_id: str, folder: Path, name: str) -> str:
    """Log a model folder to its run, where its files lie under ``artifacts/NAME``; returns MLflow's id of it."""
    code = Path(__file__).resolve().parent
    needs = {name: metadata.version(name).split("+")[0] for name in REQUIREMENTS}
    with tempfile.TemporaryDirectory() as staging, mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no input example: it would load the model to run it once
        # MLflow keeps a folder under its own name, and ours is named by its stage.
        model = shutil.copytree(folder, Path(staging) / name)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code / "pyfunc_model.py"),
            artifacts={"model": str(model)},
            code_paths=[str(code.parent / "llm_core")],
            pip_requirements=[f"{name}=={version}" for name, version in needs.items()],
            signature=signature(folder),
        )
    return str(info.model_id)


def signature(folder: Path) -> ModelSignature:
    """What goes into the model of a folder and what comes out, by what it is for."""
    chosen = scorer_class(task_of(folder))
    inputs: list[Any] = [ColSpec(DataType.string, name) for name in chosen.reads]
    inputs += [ColSpec(DataType.string, name, required=False) for name in chosen.may_read]
    if not issubclass(chosen, Writes):
        outputs: list[Any] = [ColSpec(TYPES[kind], name) for name, kind in chosen.gives.items()]
        return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([ColSpec(DataType.string)]), params=_params())


def _params() -> ParamSchema:
    options = WritingOptions()
    return ParamSchema(
        [
            ParamSpec("max_tokens", "long", options.max_tokens),
            ParamSpec("temperature", "double", options.temperature),
            ParamSpec("top_p", "double", options.top_p),
            ParamSpec("seed", "long", options.seed),
            ParamSpec("stop", "string", list(options.stop), shape=(-1,)),
        ]
    )
