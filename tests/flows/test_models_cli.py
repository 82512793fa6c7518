"""`tidemill import` and `tidemill export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from flows.models_cli import TaskName
from llm_core.artifact import Artifact
from llm_core.config import Model
from llm_core.models import ModelError, Task, build, load_pretrained, save_pretrained
from llm_core.tokenizer import Tokenizer

SHAPE = {"num_layers": 1, "width": 16, "num_heads": 2, "num_kv_heads": 1, "mlp_width": 24, "context": 16}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "source"
    folder.mkdir()
    save_pretrained(build(Model(**SHAPE), 300, end_id=0, seed=1), folder)
    Tokenizer.train(["some text to learn from"], vocab_size=280).save(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2], "temperature": 0.6}')
    (folder / "modeling.py").write_text("raise SystemExit('run')")
    return folder


def tidemill(*arguments: str) -> Result:
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def weights(folder: Path) -> dict[str, Any]:
    return load_pretrained(folder).state_dict()


def same(first: Path, second: Path) -> bool:
    return all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())


def test_what_is_imported_is_a_model_artifact_and_comes_out_as_it_was(source: Path) -> None:
    facts = json.loads(tidemill("import", "source", "--output", "models/mine", "--json").stdout)
    artifact = Artifact.open(Path("models/mine"), "model")
    assert (facts["digest"], facts["architecture"]) == (artifact.digest, "LlamaForCausalLM")
    assert "modeling.py" not in artifact.files
    facts = json.loads(tidemill("export", "models/mine", "--output", "out", "--json").stdout)
    assert facts == {
        "output": "out",
        "architecture": "LlamaForCausalLM",
        "task": "causal_lm",
        "parameters": sum(parameter.numel() for parameter in load_pretrained(source).parameters()),
        "vocab_size": 300,
        "context": 16,
    }
    assert same(source, Path("out"))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (Path("out") / name).read_bytes() == (source / name).read_bytes()
    assert not (Path("out") / "manifest.json").exists()


def test_a_task_puts_a_head_on_and_leaves_decoding_behind(source: Path) -> None:
    tidemill("import", "source", "--output", "classes", "--task", "sequence_classification", "--labels", "bad, good")
    config = json.loads(Path("classes/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert not Path("classes/generation_config.json").exists()


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(source: Path) -> None:
    Path("taken").mkdir()
    for command in (["import", "source"], ["export", "source"]):
        with pytest.raises(ModelError, match="taken: exists already and is left alone"):
            tidemill(*command, "--output", "taken")
    assert list(Path("taken").iterdir()) == []
    tidemill("import", "source", "--output", "whole")
    content = Path("whole/model.safetensors").read_bytes()
    Path("whole/model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for command in (["import", "whole"], ["export", "whole"]):
        with pytest.raises(ValueError, match="model.safetensors: sha256 is not the manifest's"):
            tidemill(*command, "--output", "new")
    (source / "model.safetensors").write_bytes(content[:-20])
    for command in (["import", "source"], ["export", "source"]):
        with pytest.raises(ModelError, match="not a safetensors file"):
            tidemill(*command, "--output", "new")
    assert sorted(path.name for path in Path().iterdir()) == ["source", "taken", "whole"]


def test_an_export_that_dies_at_its_last_step_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("llm_core.models.transfer.os.rename", full)
    with pytest.raises(OSError, match="no space left"):
        tidemill("export", "source", "--output", "out")
    assert [path.name for path in Path().iterdir()] == ["source"]


def test_the_manifest_of_a_hub_import_names_the_commit(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = source.rename(source.parent / ("a" * 40))
    monkeypatch.setattr("llm_core.models.hub.fetch", lambda repo_id, revision: commit)
    tidemill("import", "owner/tiny", "--output", "tiny")
    recipe = Artifact.open(Path("tiny"), "model").recipe
    assert (recipe["source"], recipe["revision"]) == ("owner/tiny", "a" * 40)


def test_wrong_names_are_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'poetry' is no task" in tidemill("import", "source", "--output", "x", "--task", "poetry").output
    assert "write a version as NAME@VERSION" in tidemill("export", "nowhere", "--output", "x").output
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="owner/tiny: the hub is out of reach"):
        tidemill("import", "owner/tiny", "--output", "x")


def test_the_tasks_on_the_command_line_are_the_models() -> None:
    assert get_args(TaskName) == get_args(Task)
