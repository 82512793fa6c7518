"""Decoders are those of transformers: every head, read and written, with padding, packed, cached."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_core.models import ARCHITECTURES, load_pretrained, save_pretrained
from tests.llm_core.models.checks import mean_loss

transformers = pytest.importorskip("transformers")

V, T, PAD = 97, 14, 0
LLAMA = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "vocab_size": V,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": PAD,
}
# A name -> the family's name in classes, and its config.
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**LLAMA, "rope_theta": 500.0}),
    "llama, everything else": (
        "Llama",
        {
            **LLAMA,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 16,
            "num_key_value_heads": 1,
            "eos_token_id": [2, 3],
            "tie_word_embeddings": True,
        },
    ),
    "mistral": ("Mistral", {**LLAMA, "sliding_window": 5}),
    "mistral, no window": ("Mistral", {**LLAMA, "sliding_window": None, "head_dim": 12}),
    "qwen2": ("Qwen2", {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", GPT2),
    "gpt2, everything else": (
        "GPT2",
        {**GPT2, "activation_function": "gelu", "n_inner": 48, "tie_word_embeddings": False},
    ),
}
HEADS = {
    "causal_lm": "ForCausalLM",
    "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "embedding": "Model",
}
NAMES = {"a": 0, "b": 1, "c": 2}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
Checkpoint = Callable[..., tuple[Any, Path]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Gives a network of transformers and the folder that it is saved in."""

    @cache
    def make(variant: str, task: str = "causal_lm") -> tuple[Any, Path]:
        model, folder = reference(variant, task), tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        return model, folder

    return make


def reference(variant: str, task: str) -> Any:
    """A network of transformers with random weights, no bias zero and no gain one."""
    family, settings = VARIANTS[variant]
    head = "LMHeadModel" if family == "GPT2" and task == "causal_lm" else HEADS[task]
    labels = {"label2id": NAMES, "id2label": {number: name for name, number in NAMES.items()}}
    config = getattr(transformers, f"{family}Config")(**settings, **labels)
    torch.manual_seed(3)
    model = getattr(transformers, family + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def some_ids(*shape: int) -> Tensor:
    return torch.randint(4, V, shape, generator=torch.Generator().manual_seed(5))


def logits_of(model: Any, ids: Tensor, **inputs: Tensor) -> Tensor:
    """What transformers computes, in the shape of our output."""
    output = model(ids, **inputs)
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    return output.logits if "logits" in output else output.last_hidden_state


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Three rows of 14, 9 and 4 tokens, and Hugging Face's mask over them."""
    ids, mask = some_ids(3, T), torch.ones(3, T, dtype=torch.int64)
    for row, length in ((1, 9), (2, 4)):
        gap = slice(length, T) if side == "right" else slice(0, T - length)
        ids[row, gap], mask[row, gap] = PAD, 0
    return ids, mask


ALL_HEADS = [(variant, task) for variant in ("llama", "mistral", "qwen2", "qwen3", "gpt2") for task in HEADS]
ALL = ALL_HEADS + [(variant, "causal_lm") for variant in VARIANTS if ", " in variant]


@pytest.mark.parametrize(("variant", "task"), ALL)
@torch.no_grad()
def test_a_reference_checkpoint_gives_the_same_logits_padded_or_not(
    variant: str, task: str, checkpoint: Checkpoint
) -> None:
    theirs, folder = checkpoint(variant, task)
    model = load_pretrained(folder)
    assert (model.architecture, model.task) == (type(theirs).__name__, task)
    ids = some_ids(2, T)
    expected = logits_of(theirs, ids)
    torch.testing.assert_close(model(ids).logits, expected.mean(1) if task == "embedding" else expected, **CLOSE)
    for side in ("right", "left"):
        ids, mask = padded(side)
        places = (mask.cumsum(1) - 1).clamp_min(0)
        expected, found = (
            logits_of(theirs, ids, attention_mask=mask, position_ids=places),
            model(ids, segments=mask).logits,
        )
        if task == "embedding":
            expected = torch.stack([row[seen].mean(0) for row, seen in zip(expected, mask.bool(), strict=True)])
        if task in ("causal_lm", "token_classification", "question_answering"):
            expected, found = expected[mask.bool()], found[mask.bool()]
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(("variant", "task"), ALL)
@torch.no_grad()
def test_what_is_written_is_the_same_checkpoint_to_transformers(
    variant: str, task: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    theirs, folder = checkpoint(variant, task)
    save_pretrained(load_pretrained(folder), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert back.config.id2label == theirs.config.id2label
    assert back.config.eos_token_id == theirs.config.eos_token_id and back.config.bos_token_id == 1
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in theirs.state_dict().items())
    ids, mask = padded("right")
    torch.testing.assert_close(logits_of(back, ids, attention_mask=mask), logits_of(theirs, ids, attention_mask=mask))


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_the_losses_are_those_of_transformers(variant: str, checkpoint: Checkpoint) -> None:
    ids, mask = padded("right")
    next_ids = torch.roll(ids.masked_fill(mask == 0, -100), -1, dims=1)
    next_ids[:, -1] = -100
    classes, marks = torch.tensor([2, 0, 1]), (some_ids(3, T) % 3).masked_fill(mask == 0, -100)
    for task, targets, labels in (
        ("causal_lm", next_ids, ids.masked_fill(mask == 0, -100)),
        ("sequence_classification", classes, classes),
        ("token_classification", marks, marks),
    ):
        theirs, folder = checkpoint(variant, task)
        loss = mean_loss(load_pretrained(folder), targets, input_ids=ids, segments=mask)
        expected = theirs(ids, attention_mask=mask, labels=labels).loss.detach()
        torch.testing.assert_close(loss, expected, **CLOSE)
    theirs, folder = checkpoint(variant, "question_answering")
    ids, spans = some_ids(3, T), torch.tensor([[3, 5], [0, 8], [2, 2]])
    loss = mean_loss(load_pretrained(folder), spans, input_ids=ids)
    expected = theirs(ids, start_positions=spans[:, 0], end_positions=spans[:, 1]).loss.detach()
    torch.testing.assert_close(loss, expected, **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_packed_row_is_its_documents_alone(variant: str, checkpoint: Checkpoint) -> None:
    model, ids = load_pretrained(checkpoint(variant)[1]), some_ids(1, T)
    segments = torch.tensor([[1] * 5 + [2] * 8 + [3]])
    alone = torch.cat([model(part).logits for part in ids.split((5, 8, 1), dim=1)], dim=1)
    torch.testing.assert_close(model(ids, segments=segments).logits, alone, **CLOSE)
    assert not torch.allclose(model(ids).logits, alone, atol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_reading_in_parts_with_a_cache_gives_the_logits_of_one_reading(variant: str, checkpoint: Checkpoint) -> None:
    model, ids = load_pretrained(checkpoint(variant)[1]), some_ids(2, T)
    for parts in ((9, 5), (6, 1, 1, 1, 5), (1,) * T):
        memory = model.new_cache(batch_size=2, max_tokens=T)
        logits = [model(part, cache=memory).logits for part in ids.split(parts, dim=1)]
        torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, **CLOSE)
        assert memory.length == T


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_left_padded_batch_decodes_as_each_row_alone(variant: str, checkpoint: Checkpoint) -> None:
    model, (ids, mask), more = load_pretrained(checkpoint(variant)[1]), padded("left"), some_ids(3, 6)
    memory = model.new_cache(batch_size=3, max_tokens=T + 6)
    model(ids, segments=mask, cache=memory)
    memory.select(rows := torch.tensor([2, 1, 1, 0]))  # another number of rows, as beam search needs
    found = [model(part, cache=memory).logits for part in more[rows].split((1, 3, 2), dim=1)]
    for place, row in enumerate(rows):
        alone = torch.cat((ids[row][mask[row] > 0], more[row]))[None]
        torch.testing.assert_close(torch.cat(found, dim=1)[place], model(alone).logits[0, -6:], **CLOSE)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_made_again_states_give_the_same_gradients(variant: str, checkpoint: Checkpoint) -> None:
    model, ids = load_pretrained(checkpoint(variant)[1]).train(), some_ids(2, T)
    for module in model.modules():
        if hasattr(module, "attention_dropout") or hasattr(module, "dropout"):
            module.dropout = module.attention_dropout = 0.0
    body = model.get_submodule(model.body)
    object.__setattr__(body.config, "embedding_dropout", 0.0)
    gradients = []
    for body.recompute in (False, True):
        model.zero_grad()
        model(ids).logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_every_decoder_of_the_registry_is_tested_here() -> None:
    families = {VARIANTS[variant][0] for variant, _ in ALL_HEADS}
    tested = {family + head for family in families for head in HEADS.values()} - {"GPT2ForCausalLM"}
    tested.add("GPT2LMHeadModel")
    assert tested == {name for name, (family, _) in ARCHITECTURES.items() if family in ("llama", "gpt2")}
