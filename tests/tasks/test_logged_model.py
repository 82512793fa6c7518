"""One package for every kind of model: MLflow loads it as code, without a pickle, and checks what goes in."""

from __future__ import annotations

import io
import os
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llm_core.closure import ROOT
from llm_core.config import Model
from llm_core.models import Task, build, save_pretrained
from llm_core.pipeline.batch import score_rows, scorer
from llm_core.tokenizer import Tokenizer
from tasks.tracking import MlflowClient, MlflowException, mlflow  # with the settings that ours have

TEXTS = ["the cat", "paris is in france where people eat good bread every day", "a mat"]
PICKLES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".joblib", ".dill", ".npy", ".npz", ".ckpt", ".h5")
TASKS: dict[str, tuple[Any, Task]] = {
    "writes": ("llama", "causal_lm"),
    "rewrites": ("t5", "seq2seq_lm"),
    "classifies": ("bert", "sequence_classification"),
    "tags": ("bert", "token_classification"),
    "answers": ("bert", "question_answering"),
    "embeds": ("bert", "embedding"),
}


@dataclass(frozen=True)
class Logged:
    folder: Path
    """The model folder that was logged."""
    files: Path
    """What MLflow keeps."""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Logged]:
    """A tiny model of a kind, logged to a store of its own."""
    base, made = tmp_path_factory.mktemp("store"), dict[str, Logged]()
    tokenizer = Tokenizer.train(TEXTS * 8, vocab_size=300)

    def log(kind: str) -> Logged:
        if kind not in made:
            family, task = TASKS[kind]
            folder = base / kind
            folder.mkdir()
            tokenizer.save(folder)
            shape: dict[str, Any] = {"num_layers": 1, "width": 32, "num_heads": 2, "num_kv_heads": 2, "context": 48}
            network = build(Model(family=family, mlp_width=24, **shape), 300, tokenizer.end_id, seed=4, task=task)
            save_pretrained(network, folder)
            made[kind] = Logged(folder, _log(base, folder))
        return made[kind]

    return log


def _log(base: Path, folder: Path) -> Path:
    from tasks.logged_model import log_model

    mlflow.set_tracking_uri(f"sqlite:///{base}/mlflow.db")
    client = MlflowClient()
    found = client.get_experiment_by_name("models")
    experiment = found.experiment_id if found else client.create_experiment("models", (base / "kept").as_uri())
    run = client.create_run(experiment)
    model_id = log_model(run.info.run_id, folder, "model")
    return Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}"))


def load(model: Logged) -> Any:
    return mlflow.pyfunc.load_model(str(model.files))


def expected(model: Logged, rows: list[tuple[str, ...]], **options: Any) -> list[dict[str, Any]]:
    made = scorer(model.folder, **options)
    return score_rows(made, [made.read(*row) for row in rows], range(len(rows)))


def test_a_writer_takes_prompts_and_parameters_and_gives_texts(logged: Callable[[str], Logged]) -> None:
    model = logged("writes")
    params: dict[str, Any] = {"max_tokens": 9, "temperature": 0.9, "top_p": 0.8, "seed": 3}
    table, rows = pd.DataFrame({"prompt": TEXTS}), [(text,) for text in TEXTS]
    whole = load(model).predict(table, params=params)
    assert whole == [row["answer"] for row in expected(model, rows, **params)]
    stop = [answer[3:5] for answer in whole]
    short = load(model).predict(table, params={**params, "stop": stop})
    assert short == [row["answer"] for row in expected(model, rows, **params, stop=stop)]
    assert all(len(ours) < len(theirs) for ours, theirs in zip(short, whole, strict=True))


def test_a_writer_is_greedy_without_parameters(logged: Callable[[str], Logged]) -> None:
    model = logged("writes")
    found = load(model).predict(pd.DataFrame({"prompt": TEXTS}))
    assert found == [row["answer"] for row in expected(model, [(text,) for text in TEXTS])]


@pytest.mark.parametrize(
    ("kind", "columns", "gives"),
    [
        ("classifies", ("text",), ["label", "score"]),
        ("classifies", ("text", "text_pair"), ["label", "score"]),
        ("tags", ("text",), ["entities"]),
        ("answers", ("question", "context"), ["answer", "score"]),
        ("embeds", ("text",), ["vector"]),
    ],
)
def test_a_reader_gives_a_table_of_what_it_is_for(
    logged: Callable[[str], Logged], kind: str, columns: tuple[str, ...], gives: list[str]
) -> None:
    model = logged(kind)
    rows = [(text, TEXTS[1])[: len(columns)] for text in TEXTS]
    found = load(model).predict(pd.DataFrame(rows, columns=list(columns)))
    assert list(found) == gives == load(model).metadata.signature.outputs.input_names()
    assert found.to_dict("records") == expected(model, rows)


def test_an_encoder_decoder_makes_texts_of_texts(logged: Callable[[str], Logged]) -> None:
    model = logged("rewrites")
    found = load(model).predict(pd.DataFrame({"text": TEXTS}), params={"max_tokens": 5})
    assert found == [row["answer"] for row in expected(model, [(text,) for text in TEXTS], max_tokens=5)]


@pytest.mark.parametrize(
    ("values", "params", "message"),
    [
        ({"text": TEXTS}, {}, r"missing inputs \['prompt'\]"),
        ({"prompt": [1, 2, 3]}, {}, "Incompatible input types for column prompt"),
        ({"prompt": TEXTS}, {"max_tokens": "many"}, "Failed to validate type and shape for 'max_tokens': long"),
        ({"prompt": TEXTS}, {"stop": "end"}, "Value must be a 1D array with shape"),
        ({"prompt": TEXTS}, {"max_tokens": 0}, "max_tokens 0 must be a whole number of at least 1"),
        ({"prompt": TEXTS}, {"temperature": -1.0}, "temperature -1.0 must be a finite number of at least 0"),
        ({"prompt": ["the", " "]}, {}, "row 1: prompt is empty"),
        ({"prompt": ["the cat " * 60]}, {}, "row 0: this model's context is 48 tokens"),
    ],
)
def test_wrong_columns_types_and_rows_are_named(
    logged: Callable[[str], Logged], values: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(MlflowException, match=message):
        load(logged("writes")).predict(pd.DataFrame(values), params=params)


def test_nothing_that_is_kept_is_a_pickle(logged: Callable[[str], Logged]) -> None:
    files = [path for path in logged("writes").files.rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in files) and any(path.name == "MLmodel" for path in files)
    assert [path for path in files if path.suffix in PICKLES] == []
    assert [path for path in files if is_pickle(path.read_bytes())] == []


def is_pickle(content: bytes) -> bool:
    """Whether this is a pickle with an effect, or an archive that holds one."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    try:
        names = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    except Exception:  # whatever it makes of bytes that are no pickle
        return False
    return len(names) > 1


@pytest.mark.parametrize("value", [{"a": 1}, print, b"x" * 99])
def test_a_pickle_would_be_found(value: Any) -> None:
    import pickle

    assert is_pickle(pickle.dumps(value)) and is_pickle(pickle.dumps(value, protocol=0))


def test_it_loads_elsewhere_with_pickles_forbidden(logged: Callable[[str], Logged], tmp_path: Path) -> None:
    """In a process that has no checkout of ours: the code comes with the model."""
    model = logged("writes")
    code = f"""
import mlflow, pandas, pickle, torch
def refuse(*_, **__): raise AssertionError("a pickle was opened")
pickle.load = pickle.loads = pickle.Unpickler = refuse
model = mlflow.pyfunc.load_model({str(model.files)!r})
import llm_core
print(llm_core.__file__.startswith({str(ROOT)!r}))
print(model.predict(pandas.DataFrame({{"prompt": {TEXTS!r}}}), params={{"max_tokens": 4}}))
"""
    left = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**left, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    is_ours, found = done.stdout.splitlines()[-2:]
    assert is_ours == "False"
    assert found == str([row["answer"] for row in expected(model, [(text,) for text in TEXTS], max_tokens=4)])
