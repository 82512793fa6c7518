"""T5: equal to the reference in every task and both versions, both ways; its formulas; segments; cached decoding."""

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
from llm_core.models.seq2seq import shift_right, source_mask
from llm_core.models.t5 import Attention, Dense, GatedDense, T5Config, position_buckets
from tests.llm_core.models import checks
from tests.llm_core.models.checks import assert_close, shaken, some_ids

VOCAB, B, S, T = 60, 3, 9, 7
TASKS = {
    "T5ForConditionalGeneration": "seq2seq_lm",
    "T5EncoderModel": "embedding",
    "T5ForSequenceClassification": "sequence_classification",
    "T5ForTokenClassification": "token_classification",
    "T5ForQuestionAnswering": "question_answering",
}
VERSIONS = {
    "1.0": {"feed_forward_proj": "relu"},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
IDS, DECODER_IDS = some_ids(B, S, vocab_size=VOCAB), some_ids(B, T, vocab_size=VOCAB, seed=6)
IDS[:, 2] = IDS[:, 5] = 1  # ends of texts: T5's classifier looks at the last one
MASK = torch.ones(B, S, dtype=torch.int64)
MASK[1, :3] = 0  # padding on either side
MASK[2, 6:] = 0
DECODER_MASK = torch.ones(B, T, dtype=torch.int64)
DECODER_MASK[1, 5:] = 0


def tiny(task: Any = "seq2seq_lm", seed: int = 1, dropout: float = 0.0) -> Any:
    shape = Model(family="t5", num_layers=2, width=16, num_heads=4, mlp_width=24, context=12, dropout=dropout)
    return build(shape, VOCAB, end_id=1, seed=seed, task=task, num_labels=3).eval()


def reference_of(name: str, **keys: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=VOCAB,
        d_model=16,
        d_kv=6,  # not d_model / num_heads
        d_ff=24,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=2,
        decoder_start_token_id=0,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=7,
        num_labels=2 if name == "T5ForQuestionAnswering" else 3,
        **keys,
    )
    return shaken(getattr(transformers, name)(config))


def both_logits(ours: Any, reference: Any, masked: bool) -> tuple[Tensor, Tensor]:
    """Ours and the reference's in one shape, padding left out."""
    mask = MASK if masked else None
    if ours.task == "seq2seq_lm":
        decoder_mask = DECODER_MASK if masked else None
        inputs = {"decoder_input_ids": DECODER_IDS, "decoder_attention_mask": decoder_mask}
        expected = reference(input_ids=IDS, attention_mask=mask, **inputs).logits
        logits = ours(IDS, DECODER_IDS, segments=mask, decoder_segments=decoder_mask).logits
        return (logits[DECODER_MASK == 1], expected[DECODER_MASK == 1]) if masked else (logits, expected)
    outputs, logits = reference(input_ids=IDS, attention_mask=mask), ours(IDS, segments=mask).logits
    if ours.task == "embedding":
        weights = (torch.ones_like(IDS) if mask is None else mask)[..., None].float()
        return logits, (outputs.last_hidden_state * weights).sum(1) / weights.sum(1)
    if ours.task == "question_answering":
        return logits, torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)
    if ours.task == "token_classification" and masked:
        return logits[MASK == 1], outputs.logits[MASK == 1]
    return logits, outputs.logits


def assert_same_logits(ours: Any, reference: Any) -> None:
    for masked in (False, True):
        logits, expected = both_logits(ours, reference, masked)
        assert logits.shape == expected.shape
        assert_close(logits, expected)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", TASKS)
@torch.no_grad()
def test_a_reference_checkpoint_loads_with_the_same_logits(tmp_path: Path, name: str, version: str) -> None:
    reference = reference_of(name, **VERSIONS[version])
    ours = checks.imported(reference, tmp_path)
    assert ours.architecture == name and ours.task == TASKS[name]
    assert_same_logits(ours, reference)


@pytest.mark.parametrize("name", TASKS)
@torch.no_grad()
def test_the_saved_folder_loads_in_transformers_with_the_same_logits(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = shaken(tiny(TASKS[name]))
    assert_same_logits(ours, checks.exported(ours, tmp_path, getattr(transformers, name)))


@pytest.mark.parametrize("scale", [True, False])
@torch.no_grad()
def test_a_head_of_its_own_survives_the_way_there_and_back(tmp_path: Path, scale: bool) -> None:
    transformers = pytest.importorskip("transformers")
    keys = {"tie_embeddings": False, "scale_features": scale, "start_id": 0, "end_id": 1}
    ours = shaken(type(tiny())(T5Config(VOCAB, 2, 2, 16, 4, 4, 24, **keys)))
    assert ours.output_head().weight is not ours.shared.weight
    assert_same_logits(ours, checks.exported(ours, tmp_path, transformers.T5ForConditionalGeneration))
    assert_same_logits(load_pretrained(tmp_path), ours_as_reference(ours))


def ours_as_reference(model: Any) -> Any:
    """Our model called by the reference's keywords."""

    def call(input_ids: Tensor, attention_mask: Any, decoder_input_ids: Tensor, decoder_attention_mask: Any) -> Any:
        return model(input_ids, decoder_input_ids, segments=attention_mask, decoder_segments=decoder_attention_mask)

    return call


@pytest.mark.parametrize("version", VERSIONS)
def test_the_loss_is_the_references_on_the_targets_shifted_right(tmp_path: Path, version: str) -> None:
    reference = reference_of("T5ForConditionalGeneration", **VERSIONS[version])
    ours: Any = checks.imported(reference, tmp_path)
    shifted, labels = shift_right(DECODER_IDS, ours.config.start_id), DECODER_IDS.where(DECODER_MASK == 1, -100)
    expected = reference(input_ids=IDS, attention_mask=MASK, decoder_input_ids=shifted, labels=labels).loss.detach()
    found = checks.mean_loss(ours, labels, input_ids=IDS, decoder_input_ids=shifted, segments=MASK)
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("T5ForTokenClassification", (IDS % 3).where(MASK == 1, -100)),
        ("T5ForSequenceClassification", IDS[:, 0] % 3),
    ],
)
def test_the_losses_of_classifiers_are_the_references(tmp_path: Path, name: str, labels: Tensor) -> None:
    reference = reference_of(name)
    expected = reference(input_ids=IDS, attention_mask=MASK, labels=labels).loss.detach()
    ours = checks.imported(reference, tmp_path)
    assert_close(checks.mean_loss(ours, labels, input_ids=IDS, segments=MASK), expected)


def test_the_loss_of_answers_is_the_references(tmp_path: Path) -> None:
    """Without padding, in which the reference looks for answers too."""
    reference, spans = reference_of("T5ForQuestionAnswering"), torch.tensor([[3, 5], [0, 8], [2, 2]])
    expected = reference(input_ids=IDS, start_positions=spans[:, 0], end_positions=spans[:, 1]).loss.detach()
    ours = checks.imported(reference, tmp_path)
    assert_close(checks.mean_loss(ours, spans, input_ids=IDS), expected)


@torch.no_grad()
def test_features_and_output_head_are_the_logits() -> None:
    model = shaken(tiny())
    head = model.output_head()
    assert head.weight is model.shared.weight and head.bias is None
    assert_close(F.linear(model.features(IDS, DECODER_IDS), head.weight), model(IDS, DECODER_IDS).logits)


@pytest.mark.parametrize("both_ways", [True, False])
def test_distances_fall_into_the_buckets_of_the_paper(both_ways: bool) -> None:
    """32 buckets up to 128: half exact, half logarithmic; a decoder spends all on what came before."""

    def bucket(distance: int) -> int:
        num, offset = (16, 16 if distance > 0 else 0) if both_ways else (32, 0)
        far = abs(distance) if both_ways else max(-distance, 0)
        exact = num // 2
        if far < exact:
            return offset + far
        steps = math.log(far / exact) / math.log(128 / exact) * (num - exact)
        return offset + min(exact + int(steps + 1e-6), num - 1)

    distances = torch.arange(-300, 301)
    expected = torch.tensor([bucket(int(distance)) for distance in distances])
    assert torch.equal(position_buckets(distances, 32, 128, both_ways), expected)


@torch.no_grad()
def test_attention_and_both_feed_forwards_are_their_formulas_written_out() -> None:
    config = T5Config(VOCAB, 1, 1, 16, 2, 6, 24)
    generator = torch.Generator().manual_seed(2)
    x, bias = torch.randn(5, 16, generator=generator), torch.randn(2, 5, 5, generator=generator)
    attention = shaken(Attention(config))
    heads = []
    for head in range(2):
        own = slice(head * 6, head * 6 + 6)
        q, k, v = (x @ part.weight[own].T for part in (attention.q, attention.k, attention.v))
        scores = (q @ k.T + bias[head]).exp()  # no scale
        heads.append(scores / scores.sum(-1, keepdim=True) @ v)
    expected = torch.cat(heads, -1) @ attention.o.weight.T
    assert_close(attention(x[None], *attention.keys_values(x[None]), bias[None])[0], expected)

    plain, gated = shaken(Dense(config)), shaken(GatedDense(config))
    assert_close(plain(x), (x @ plain.wi.weight.T).clamp(min=0) @ plain.wo.weight.T)
    inner = x @ gated.wi_0.weight.T
    gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    assert_close(gated(x), (gelu * (x @ gated.wi_1.weight.T)) @ gated.wo.weight.T)


@torch.no_grad()
def test_a_packed_row_of_pairs_is_the_pairs_alone() -> None:
    model = shaken(tiny())
    source, target = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2, 2]]), torch.tensor([[1, 1, 1, 2, 2, 2, 2]])
    packed = model(IDS[:1], DECODER_IDS[:1], segments=source, decoder_segments=target).logits
    parts = zip(IDS[:1].split((5, 4), 1), DECODER_IDS[:1].split((3, 4), 1), strict=True)
    assert_close(packed, torch.cat([model(a, b).logits for a, b in parts], dim=1))


@pytest.mark.parametrize("parts", [(7,), (1,) * 7, (2, 1, 4)])
@pytest.mark.parametrize("mask", [None, MASK])
@torch.no_grad()
def test_cached_decoding_in_parts_gives_the_logits_of_one_reading(parts: tuple[int, ...], mask: Tensor | None) -> None:
    model = shaken(tiny())
    cache = model.new_cache(batch_size=B, max_tokens=T)
    first, *others = DECODER_IDS.split(parts, dim=1)
    logits = [model(IDS, first, segments=mask, cache=cache).logits]
    logits += [model(None, part, cache=cache).logits for part in others]
    assert_close(torch.cat(logits, dim=1), model(IDS, DECODER_IDS, segments=mask).logits)


@torch.no_grad()
def test_a_cache_follows_the_beams_that_are_kept() -> None:
    model = shaken(tiny())
    cache = model.new_cache(batch_size=B, max_tokens=T)
    model(IDS, DECODER_IDS[:, :4], segments=MASK, cache=cache)
    rows = torch.tensor([2, 0, 2, 1, 0])
    cache.select(rows)
    logits = model(None, DECODER_IDS[rows, 4:], cache=cache).logits
    assert_close(logits, model(IDS, DECODER_IDS, segments=MASK).logits[rows, 4:])


@torch.no_grad()
def test_decoders_of_different_beginnings_are_padded_on_the_left() -> None:
    model = shaken(tiny())
    padded = torch.ones(B, T, dtype=torch.int64)
    padded[1, :2] = 0
    cache = model.new_cache(batch_size=B, max_tokens=T)
    first = model(IDS, DECODER_IDS[:, :5], decoder_segments=padded[:, :5], cache=cache).logits
    then = model(None, DECODER_IDS[:, 5:], cache=cache).logits
    assert_close(torch.cat((first, then), 1)[1, 2:], model(IDS[1:2], DECODER_IDS[1:2, 2:]).logits[0])


def test_padding_in_the_decoder_always_sees_something() -> None:
    """A softmax over nothing is NaN in its gradients too, which would spoil every weight."""
    seen = source_mask(torch.ones(B, S, dtype=torch.int64), DECODER_MASK)
    assert seen is not None and seen.any(dim=-1).all()
    assert not source_mask(torch.full((B, S), 2), DECODER_MASK)[0].any()  # type: ignore[index]


def test_calls_that_make_no_sense_are_refused() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="without a cache reads a source: give input_ids"):
        model(None, DECODER_IDS)
    cache = model.new_cache(batch_size=B, max_tokens=8)
    with pytest.raises(ValueError, match="holds no source yet: give input_ids"):
        model(None, DECODER_IDS, cache=cache)
    model(IDS, DECODER_IDS, cache=cache)
    with pytest.raises(ValueError, match="take a new one for another source"):
        model(IDS, DECODER_IDS, cache=cache)
    with pytest.raises(ValueError, match="9 tokens do not fit: the cache has room for 8"):
        model(None, DECODER_IDS[:, :2], cache=cache)


@torch.no_grad()
def test_a_classifier_reads_a_text_cut_short_at_its_last_token() -> None:
    model = shaken(tiny("sequence_classification"))
    cut = IDS[:, 3:5]  # no end
    states = model.transformer.states(cut, shift_right(cut, model.config.start_id))
    assert_close(model(cut).logits, model.classification_head(states[:, -1]))


@torch.no_grad()
def test_a_language_models_body_takes_a_classifiers_head(tmp_path: Path) -> None:
    model = shaken(tiny())
    save_pretrained(model, tmp_path)
    classifier: Any = load_pretrained(tmp_path, task="token_classification", labels=("a", "b", "c"))
    assert_close(classifier.transformer.encode(IDS), model.encode(IDS))


def test_training_aids_change_no_result() -> None:
    model = tiny(dropout=0.3)
    checks.assert_recomputing_changes_nothing(
        model, lambda m: m(IDS, DECODER_IDS, segments=MASK, decoder_segments=DECODER_MASK).logits
    )
    checks.assert_dropout_only_in_training(model, lambda m: m(IDS, DECODER_IDS).logits)


@pytest.mark.parametrize("task", TASKS.values())
def test_initial_weights_follow_from_the_seed_alone(task: str) -> None:
    checks.assert_initial_weights_follow_from_the_seed(tiny(task))


def test_the_first_logits_have_a_spread_of_one() -> None:
    assert 0.7 < tiny()(IDS, DECODER_IDS).logits.std().item() < 1.4


def test_it_exists_without_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = tiny()
        ids = torch.zeros(2, 8, dtype=torch.int64)
        assert model(ids, ids).logits.shape == (2, 8, VOCAB)
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu' is not supported by this T5"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
        ({"eos_token_id": [1, 2]}, r"eos_token_id \[1, 2\] is not supported by this T5, only one id"),
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
