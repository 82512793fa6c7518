"""Folders of models: shards, half precision, other heads, tied weights, and what is refused."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_core.config import Model, load_recipe
from llm_core.models import ARCHITECTURES, ModelError, Network, blank, build, load_pretrained, save_pretrained
from llm_core.models.registry import family_module
from tests.contracts.documents import ROOT

SHAPE = {"num_layers": 2, "width": 32, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 48, "context": 24}
# sha256 of the first weights of the demo and of a small tied model, as the first version of this file found them.
DEMO = "7cf8b1ab9dc3e5c668a6c4e8f1fed91d9c6198ba1657b1b05670b9bdaea37520"
TIED = "d89f1d4a837fab63ef90bf683830a156ed756d765b0d48c2031aae630934fb78"


def tiny(family: str = "llama", task: str | None = None, **more: object) -> Network:
    return build(Model(family=family, **SHAPE, **more), 60, end_id=0, seed=1, task=task, num_labels=3).eval()


def saved(folder: Path, network: Network) -> Path:
    folder.mkdir()
    save_pretrained(network, folder)
    return folder


def digest(network: Network) -> str:
    found = hashlib.sha256()
    for name, parameter in network.named_parameters():
        found.update(name.encode() + parameter.detach().numpy().tobytes())
    return found.hexdigest()


def test_the_first_weights_are_the_recorded_ones() -> None:
    demo = load_recipe("demo", ROOT / "configs")
    small = Model(**SHAPE, tie_embeddings=True)
    assert digest(build(demo.model, 8192, end_id=0, seed=1337)) == DEMO
    assert digest(build(small, 300, end_id=0, seed=1)) == TIED


@pytest.mark.parametrize(("family", "name"), sorted(set(ARCHITECTURES.values())))
def test_every_architecture_is_built_saved_and_loaded(family: str, name: str, tmp_path: Path) -> None:
    shape = Model(family=family, **{**SHAPE, "num_kv_heads": 4})
    network = build(shape, 60, end_id=0, seed=1, task=getattr(family_module(family), name).task)
    back = load_pretrained(saved(tmp_path / "model", network))
    assert type(network).__name__ == type(back).__name__ == name
    assert digest(back) == digest(network) == digest(build(shape, 60, end_id=0, seed=1, task=network.task))


def test_a_recipe_names_the_variant_and_the_task() -> None:
    names = {
        (): "LlamaForCausalLM",
        ("qk_norm",): "Qwen3ForCausalLM",
        ("attention_bias",): "Qwen2ForCausalLM",
    }
    for switches, name in names.items():
        assert tiny(**dict.fromkeys(switches, True)).architecture == name
    assert tiny("gpt2").architecture == "GPT2LMHeadModel"
    classifier = tiny("gpt2", "sequence_classification")
    assert classifier(torch.ones(2, 5, dtype=torch.int64)).logits.shape == (2, 3)
    with pytest.raises(ModelError, match="task 'seq2seq_lm' is not supported by the gpt2 family, only causal_lm"):
        tiny("gpt2", "seq2seq_lm")


def test_a_large_network_takes_no_memory_on_the_meta_device() -> None:
    shape = {**SHAPE, "width": 8192, "num_heads": 64, "num_kv_heads": 8, "mlp_width": 28_672, "num_layers": 4}
    with torch.device("meta"):
        network = blank(Model(**shape), 128_256, end_id=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_523_972_096


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_in_half_precision_load_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    network = tiny()
    folder = saved(tmp_path / "one", network)
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, tensor in load_pretrained(folder).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name].to(dtype).float())
    index["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="'../secret.safetensors' is not a file of this folder"):
        load_pretrained(folder)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_another_task_gets_a_new_head_on_the_same_body(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = tiny(family)
    folder = saved(tmp_path / "lm", network)
    body = network.get_submodule(network.body).state_dict()
    for task in ("sequence_classification", "token_classification", "question_answering"):
        with caplog.at_level(logging.WARNING):
            other = load_pretrained(folder, task=task, labels=("x", "y", "z"), seed=3)
        assert all(
            torch.equal(body[name], value) for name, value in other.get_submodule(other.body).state_dict().items()
        )
        assert f"new head, not trained yet: {other.untrained_heads[0]}" in caplog.text
        again = load_pretrained(folder, task=task, labels=("x", "y", "z"), seed=3)
        assert digest(again) == digest(other) != digest(load_pretrained(folder, task=task, labels=("x", "y", "z")))
    embedder = load_pretrained(folder, task="embedding")
    assert embedder(torch.ones(2, 5, dtype=torch.int64)).logits.shape == (2, SHAPE["width"])
    # And back: the body alone, under bare names, is the start of a language model again.
    folder = saved(tmp_path / "body", embedder)
    back = load_pretrained(folder, task="causal_lm")
    assert torch.equal(next(iter(back.state_dict().values())), next(iter(body.values())))


def test_new_labels_make_a_new_head_and_are_saved(tmp_path: Path) -> None:
    folder = saved(tmp_path / "three", tiny(task="sequence_classification"))
    network = load_pretrained(folder, labels=("no", "yes"))
    assert network(torch.ones(2, 5, dtype=torch.int64)).logits.shape == (2, 2)
    written = json.loads((saved(tmp_path / "two", network) / "config.json").read_text())
    assert written["id2label"] == {"0": "no", "1": "yes"}


def test_a_missing_body_tensor_is_an_error_even_with_a_new_head(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", tiny())
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="the tensor model.norm.weight is missing"):
        load_pretrained(folder, task="token_classification")


def test_tied_weights_that_differ_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", tiny(tie_embeddings=True))
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match="differ, but config.json says that they are one tensor"):
        load_pretrained(folder)


def test_stored_masks_and_bare_names_of_old_checkpoints_are_understood(tmp_path: Path) -> None:
    network = tiny("gpt2")
    folder = saved(tmp_path / "model", network)
    weights = {n.removeprefix("transformer."): t for n, t in load_file(folder / "model.safetensors").items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 24, 24)
    save_file(weights, folder / "model.safetensors")
    assert digest(load_pretrained(folder)) == digest(network)


def test_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", tiny())
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ModelError, match="config.json: quantization_config: quantized weights are not read"):
        load_pretrained(folder)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", tiny())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pytorch_model.bin: a pickle, which can run any code"):
        load_pretrained(folder)
