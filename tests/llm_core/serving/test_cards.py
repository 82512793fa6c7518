from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from llm_core.artifact import Artifact, Draft
from llm_core.models import build, save_pretrained
from llm_core.serving.app import Service, create_app
from llm_core.serving.cards import Card
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import CARD
from llm_core.tokenizer import Tokenizer
from tests.llm_core.serving.conftest import SHAPE

TAGS = {
    "git.commit": "c0ffee",
    "git.dirty": "true",
    "prefect.flow_run_id": "flow",
    "config.sha256": "recipe",
    "data.license": "public domain",
    "dvc.lock.md5": "lock",
    "dvc.out.train": "md5 of train",
}


@pytest.fixture
def client(engine: Engine, host: Host) -> Iterator[TestClient]:
    with TestClient(create_app(Service(host, engine))) as client:
        yield client


def test_a_card_tells_shape_training_and_readme(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with Draft(tmp_path / "train", kind="model", stage="train", parents={"tokenize": "digest"}) as out:
        save_pretrained(build(SHAPE, tokenizer.vocab_size, tokenizer.end_id, 1), out.path)
        (out.path / "README.md").write_text("# A tiny model\n", encoding="utf-8")
        card = Card.read(out.publish({"validation_loss": 2.5}))
    assert card.shape["model_type"] == "llama" and card.shape["hidden_size"] == SHAPE.width
    assert (card.training, card.parents) == ({"validation_loss": 2.5}, {"tokenize": "digest"})
    assert card.readme == "# A tiny model\n"


def test_a_loaded_version_keeps_its_card(model: LoadedModel, artifact: Artifact) -> None:
    assert model.card == Card.read(artifact) and model.card.shape["vocab_size"] == model.tokenizer.vocab_size
    assert model.card.readme is None


def test_a_registered_versions_card_is_served(client: TestClient, host: Host, model: LoadedModel) -> None:
    assert client.get("/v1/models/tiny/card").json()["readme"] is None
    version = replace(model.version, version="2", tags={**TAGS, CARD: "# A tiny model"})
    host.first.install(replace(model, version=version))
    assert client.get("/v1/models/tiny/card").json()["readme"] == "# A tiny model"


def test_the_card_of_what_answers_leads_to_its_origin(client: TestClient, host: Host, model: LoadedModel) -> None:
    host.first.install(replace(model, version=replace(model.version, version="2", tags=TAGS, run_id="run")))
    card = client.get("/v1/models/tiny/card").json()
    assert (card["id"], card["object"], card["artifact"]) == ("tiny@2", "model.card", model.version.artifact)
    assert card["shape"]["num_hidden_layers"] == SHAPE.num_layers and card["context"] == SHAPE.context
    assert card["lineage"] == {
        "commit": "c0ffee",
        "dirty": True,
        "flow_run": "flow",
        "recipe_sha256": "recipe",
        "license": "public domain",
        "dvc_lock_md5": "lock",
        "mlflow": "run",
        "dvc": {"train": "md5 of train"},
        "command": "tidemill lineage tiny@2",
    }
    assert client.get("/v1/models/tiny@1/card").json()["id"] == "tiny@1", "each version in memory has its own"


def test_a_folder_without_a_registry_has_no_command_to_run(client: TestClient) -> None:
    assert client.get("/v1/models/tiny/card").json()["lineage"]["command"] is None


def test_the_card_of_a_stranger_is_refused(client: TestClient) -> None:
    refused = client.get("/v1/models/large/card")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
