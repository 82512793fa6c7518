"""BERT: equal to the reference in every task, both ways; its formulas written out; segments, padding, pairs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llm_core.config import Model
from llm_core.models import ModelError, build, load_pretrained, save_pretrained
from llm_core.models.bert import BertConfig, Block
from tests.llm_core.models import checks
from tests.llm_core.models.checks import assert_close, shaken, some_ids

VOCAB, B, T = 60, 3, 9
TASKS = {
    "BertForMaskedLM": "masked_lm",
    "BertForSequenceClassification": "sequence_classification",
    "BertForTokenClassification": "token_classification",
    "BertForQuestionAnswering": "question_answering",
    "BertModel": "embedding",
}
IDS = some_ids(B, T, vocab_size=VOCAB)
TYPES = torch.arange(T).ge(4).long().expand(B, T)
MASK = torch.ones(B, T, dtype=torch.int64)
MASK[1, 6:] = 0
MASK[2, 3:] = 0


def tiny(task: Any = "masked_lm", seed: int = 1, **keys: Any) -> Any:
    shape = Model(
        family="bert", num_layers=2, width=16, num_heads=4, mlp_width=24, context=12, **{"dropout": 0.0, **keys}
    )
    return build(shape, VOCAB, end_id=0, seed=seed, task=task, num_labels=3).eval()


def reference_of(name: str, num_labels: int = 3, **keys: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=12,
        num_labels=2 if name == "BertForQuestionAnswering" else num_labels,
        **keys,
    )
    return shaken(getattr(transformers, name)(config))


def reference_logits(reference: Any, mask: Tensor | None) -> Tensor:
    """In our shapes; an embedder's is the mean of what the mask leaves."""
    outputs = reference(input_ids=IDS, attention_mask=mask, token_type_ids=TYPES)
    if hasattr(outputs, "start_logits"):
        return torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)
    if hasattr(outputs, "logits"):
        return outputs.logits
    weights = torch.ones(B, T, 1) if mask is None else mask[..., None].float()
    return (outputs.last_hidden_state * weights).sum(1) / weights.sum(1)


def assert_same_logits(ours: Any, reference: Any) -> None:
    for mask in (None, MASK):
        logits, expected = ours(IDS, segments=mask, token_types=TYPES).logits, reference_logits(reference, mask)
        assert logits.shape == expected.shape
        if logits.shape[:2] == (B, T) and mask is not None:  # padding is nobody's output
            logits, expected = logits[mask.bool()], expected[mask.bool()]
        assert_close(logits, expected)


@pytest.mark.parametrize("name", TASKS)
@torch.no_grad()
def test_a_reference_checkpoint_loads_with_the_same_logits(tmp_path: Path, name: str) -> None:
    reference = reference_of(name)
    ours = checks.imported(reference, tmp_path)
    assert ours.architecture == name and ours.task == TASKS[name]
    assert_same_logits(ours, reference)


@pytest.mark.parametrize("name", TASKS)
@torch.no_grad()
def test_the_saved_folder_loads_in_transformers_with_the_same_logits(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = shaken(tiny(TASKS[name]))
    assert_same_logits(ours, checks.exported(ours, tmp_path, getattr(transformers, name)))


@pytest.mark.parametrize("keys", [{"hidden_act": "gelu_new"}, {"hidden_act": "relu"}])
@torch.no_grad()
def test_variants_of_the_shape_survive_the_way_there_and_back(tmp_path: Path, keys: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    reference = reference_of("BertForMaskedLM", **keys)
    ours = checks.imported(reference, tmp_path)
    assert_same_logits(ours, reference)
    assert_same_logits(ours, checks.exported(ours, tmp_path, transformers.BertForMaskedLM))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("BertForMaskedLM", IDS.where((IDS % 3 == 0) & (MASK == 1), -100)),
        ("BertForTokenClassification", (IDS % 3).where(MASK == 1, -100)),
        ("BertForSequenceClassification", IDS[:, 0] % 3),
    ],
)
def test_the_losses_are_the_references(tmp_path: Path, name: str, labels: Tensor) -> None:
    reference = reference_of(name)
    expected = reference(input_ids=IDS, attention_mask=MASK, token_type_ids=TYPES, labels=labels).loss.detach()
    ours = checks.imported(reference, tmp_path)
    assert_close(checks.mean_loss(ours, labels, input_ids=IDS, segments=MASK, token_types=TYPES), expected)


def test_the_loss_of_answers_is_the_references(tmp_path: Path) -> None:
    """Without padding, in which the reference looks for answers too."""
    reference, spans = reference_of("BertForQuestionAnswering"), torch.tensor([[3, 5], [0, 8], [2, 2]])
    expected = reference(
        input_ids=IDS, token_type_ids=TYPES, start_positions=spans[:, 0], end_positions=spans[:, 1]
    ).loss.detach()
    ours = checks.imported(reference, tmp_path)
    assert_close(checks.mean_loss(ours, spans, input_ids=IDS, token_types=TYPES), expected)


@torch.no_grad()
def test_features_and_output_head_are_the_logits() -> None:
    model = shaken(tiny())
    head = model.output_head()
    assert head.weight is model.bert.embeddings.word_embeddings.weight
    assert_close(F.linear(model.features(IDS, segments=MASK), *head), model(IDS, segments=MASK).logits)
    assert head.bias.abs().max() > 0


def naive_norm(x: Tensor, norm: Any) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def naive_attention(x: Tensor, attention: Any, num_heads: int) -> Tensor:
    """One sequence (T, C): head by head, query by query."""
    size = x.shape[1] // num_heads
    q, k, v = (x @ part.weight.T + part.bias for part in (attention.query, attention.key, attention.value))
    rows = []
    for t in range(len(x)):
        heads = []
        for head in range(num_heads):
            own = slice(head * size, (head + 1) * size)
            scores = torch.stack([q[t, own] @ k[s, own] / math.sqrt(size) for s in range(len(x))]).exp()
            heads.append(sum(scores[s] / scores.sum() * v[s, own] for s in range(len(x))))
        rows.append(torch.cat(heads))  # type: ignore[arg-type]
    return torch.stack(rows)


@torch.no_grad()
def test_a_block_is_its_formulas_written_out() -> None:
    block = shaken(Block(BertConfig(VOCAB, 1, 16, 4, 24, context=12)))
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    y = naive_attention(x, block.attention.self, num_heads=4)
    own = block.attention.output
    y = naive_norm(x + y @ own.dense.weight.T + own.dense.bias, own.LayerNorm)
    inner = y @ block.intermediate.dense.weight.T + block.intermediate.dense.bias
    inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
    out = block.output
    expected = naive_norm(y + inner @ out.dense.weight.T + out.dense.bias, out.LayerNorm)
    assert_close(block(x[None], None)[0], expected)


@torch.no_grad()
def test_embeddings_are_the_normalised_sum_of_word_position_and_type() -> None:
    embeddings = shaken(tiny()).bert.embeddings
    words, places = embeddings.word_embeddings.weight[IDS], embeddings.position_embeddings.weight[:T]
    types = embeddings.token_type_embeddings.weight[TYPES]
    assert_close(embeddings(IDS, None, TYPES), naive_norm(words + places + types, embeddings.LayerNorm))


@torch.no_grad()
def test_a_packed_row_is_its_documents_alone() -> None:
    model = shaken(tiny())
    row, segments = IDS[:1], torch.tensor([[1, 1, 1, 1, 2, 2, 2, 3, 3]])
    packed = model(row, segments=segments, token_types=TYPES[:1]).logits
    parts = [
        model(part, token_types=types).logits
        for part, types in zip(row.split((4, 3, 2), 1), TYPES[:1].split((4, 3, 2), 1), strict=True)
    ]
    assert_close(packed, torch.cat(parts, dim=1))


@pytest.mark.parametrize("task", ["sequence_classification", "embedding", "masked_lm"])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(task: str) -> None:
    model = shaken(tiny(task))
    alone = model(IDS[:, :6]).logits
    padding, ones = torch.zeros(B, 3, dtype=torch.int64), torch.ones(B, 6, dtype=torch.int64)
    left = model(torch.cat((padding, IDS[:, :6]), 1), segments=torch.cat((padding, ones), 1)).logits
    right = model(torch.cat((IDS[:, :6], padding), 1), segments=torch.cat((ones, padding), 1)).logits
    if task == "masked_lm":
        left, right = left[:, 3:], right[:, :6]
    assert_close(left, alone)
    assert_close(right, alone)


@torch.no_grad()
def test_a_language_models_body_takes_a_classifiers_head(tmp_path: Path) -> None:
    model = shaken(tiny())
    save_pretrained(model, tmp_path)
    classifier: Any = load_pretrained(tmp_path, task="sequence_classification", labels=("no", "yes"))
    assert_close(classifier.bert.states(IDS), model.bert.states(IDS))
    assert classifier(IDS).logits.shape == (B, 2)
    again = tmp_path / "again"
    again.mkdir()
    save_pretrained(classifier, again)
    assert json.loads((again / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}


def test_training_aids_change_no_result() -> None:
    model = tiny(dropout=0.3)
    checks.assert_recomputing_changes_nothing(model, lambda m: m(IDS, segments=MASK).logits)
    checks.assert_dropout_only_in_training(model, lambda m: m(IDS).logits)


@pytest.mark.parametrize("task", TASKS.values())
def test_initial_weights_follow_from_the_seed_alone(task: str) -> None:
    checks.assert_initial_weights_follow_from_the_seed(tiny(task))


def test_the_first_loss_is_that_of_knowing_nothing() -> None:
    loss = F.cross_entropy(tiny()(IDS).logits.flatten(0, 1), IDS.flatten())
    assert abs(loss.item() - math.log(VOCAB)) < 0.3


def test_it_exists_without_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = tiny()
        assert model(torch.zeros(2, 8, dtype=torch.int64)).logits.shape == (2, 8, VOCAB)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not supported by this BERT, only gelu, gelu_new, relu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False is not supported"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"add_cross_attention": True}, "add_cross_attention True is not supported"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_pretrained(tiny(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        load_pretrained(tmp_path)


def test_more_tokens_than_positions_are_refused_by_count() -> None:
    with pytest.raises(ValueError, match="13 tokens do not fit: the model reads 12"):
        tiny()(some_ids(1, 13, vocab_size=VOCAB))
