"""The 2017 Transformer: equal to torch.nn.Transformer on the same weights; its positions; segments; cached decoding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.config import Model
from llm_core.models import build, load_pretrained, save_pretrained
from llm_core.models.transformer import TransformerConfig, TransformerForSeq2SeqLM, sinusoidal_positions
from tests.llm_core.models import checks
from tests.llm_core.models.checks import assert_close, shaken, some_ids

VOCAB, B, S, T = 60, 3, 9, 7
IDS, DECODER_IDS = some_ids(B, S, vocab_size=VOCAB), some_ids(B, T, vocab_size=VOCAB, seed=6)
MASK = torch.ones(B, S, dtype=torch.int64)
MASK[1, 6:] = 0
MASK[2, 3:] = 0
DECODER_MASK = torch.ones(B, T, dtype=torch.int64)
DECODER_MASK[1, 5:] = 0


def tiny(seed: int = 1, **keys: Any) -> Any:
    shape = Model(family="transformer", width=16, num_heads=4, mlp_width=24, context=12, **{"num_layers": 2, **keys})
    return build(shape, VOCAB, end_id=0, seed=seed).eval()


def torch_transformer(final_norm: bool = True) -> nn.Transformer:
    reference = nn.Transformer(16, 4, 2, 3, 24, batch_first=True)
    if not final_norm:
        reference.encoder.norm = reference.decoder.norm = None
    return shaken(reference)


def torch_logits(reference: nn.Transformer, ours: Any, masked: bool) -> Tensor:
    """Embedding, positions and head written out around torch's own encoder and decoder."""
    table = ours.embedding.weight
    x, y = (
        F.embedding(ids, table) * 4 + torch.stack([naive_position(place, 16) for place in range(ids.shape[1])])
        for ids in (IDS, DECODER_IDS)
    )
    hidden, decoder_hidden = (MASK == 0, DECODER_MASK == 0) if masked else (None, None)
    out = reference(
        x,
        y,
        tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1),
        src_key_padding_mask=hidden,
        tgt_key_padding_mask=decoder_hidden,
        memory_key_padding_mask=hidden,
    )
    return out @ ours.output_head().weight.T


def naive_position(place: int, width: int) -> Tensor:
    """Section 3.5, number by number."""
    values = []
    for i in range(width // 2):
        angle = place / 10_000 ** (2 * i / width)
        values += [math.sin(angle), math.cos(angle)]
    return torch.tensor(values)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("final_norm", [True, False])
@torch.no_grad()
def test_the_logits_are_those_of_torchs_module_on_the_same_weights(tied: bool, final_norm: bool) -> None:
    reference = torch_transformer(final_norm)
    config = TransformerConfig(VOCAB, 2, 3, 16, 4, 24, 12, tie_embeddings=tied, final_norm=final_norm)
    ours = shaken(TransformerForSeq2SeqLM(config))
    ours.transformer.load_state_dict(reference.state_dict())  # every name and shape fits
    assert (ours.lm_head.weight is ours.embedding.weight) == tied
    assert_close(ours(IDS, DECODER_IDS).logits, torch_logits(reference, ours, masked=False))
    logits = ours(IDS, DECODER_IDS, segments=MASK, decoder_segments=DECODER_MASK).logits
    expected = torch_logits(reference, ours, masked=True)
    assert_close(logits[DECODER_MASK == 1], expected[DECODER_MASK == 1])


def test_positions_are_the_papers_sines_and_cosines() -> None:
    assert_close(sinusoidal_positions(50, 16), torch.stack([naive_position(place, 16) for place in range(50)]))


@torch.no_grad()
def test_attention_is_its_formula_written_out() -> None:
    attention = shaken(tiny()).transformer.encoder.layers[0].self_attn
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
    heads = []
    for own in (slice(start, start + 4) for start in range(0, 16, 4)):
        scores = (q[:, own] @ k[:, own].T / math.sqrt(4)).exp()
        heads.append(scores / scores.sum(-1, keepdim=True) @ v[:, own])
    expected = torch.cat(heads, dim=1) @ attention.out_proj.weight.T + attention.out_proj.bias
    assert_close(attention(*attention.project(x[None], 0, 3), None)[0], expected)


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
def test_decoders_of_different_beginnings_are_padded_on_the_left() -> None:
    model = shaken(tiny())
    padded = torch.ones(B, T, dtype=torch.int64)
    padded[1, :2] = 0
    cache = model.new_cache(batch_size=B, max_tokens=T)
    first = model(IDS, DECODER_IDS[:, :5], decoder_segments=padded[:, :5], cache=cache).logits
    then = model(None, DECODER_IDS[:, 5:], cache=cache).logits
    assert_close(torch.cat((first, then), 1)[1, 2:], model(IDS[1:2], DECODER_IDS[1:2, 2:]).logits[0])


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_saved_model_loads_with_the_same_bits(tmp_path: Path, tied: bool) -> None:
    model = tiny(tie_embeddings=tied)
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert torch.equal(loaded(IDS, DECODER_IDS).logits, model(IDS, DECODER_IDS).logits)
    assert loaded.config == model.config


@torch.no_grad()
def test_more_tokens_than_positions_are_refused_by_count() -> None:
    model, long = tiny(), some_ids(1, 13, vocab_size=VOCAB)
    for inputs in ((long, DECODER_IDS[:1]), (IDS[:1], long)):
        with pytest.raises(ValueError, match="13 tokens do not fit: the model reads 12"):
            model(*inputs)


def test_training_aids_change_no_result() -> None:
    model = tiny(dropout=0.3)
    checks.assert_recomputing_changes_nothing(
        model, lambda m: m(IDS, DECODER_IDS, segments=MASK, decoder_segments=DECODER_MASK).logits
    )
    checks.assert_dropout_only_in_training(model, lambda m: m(IDS, DECODER_IDS).logits)


def test_initial_weights_follow_from_the_seed_alone() -> None:
    checks.assert_initial_weights_follow_from_the_seed(tiny())


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_logits_have_a_spread_of_one(tied: bool) -> None:
    assert 0.7 < tiny(tie_embeddings=tied)(IDS, DECODER_IDS).logits.std().item() < 1.4


def test_it_learns_to_copy_its_source() -> None:
    model = tiny(tie_embeddings=True, num_layers=1).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = some_ids(16, 4, vocab_size=12)
    inputs = torch.cat((torch.zeros(16, 1, dtype=torch.int64), ids[:, :-1]), dim=1)
    for _ in range(40):
        loss = F.cross_entropy(model(ids, inputs).logits.flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.0  # what it begins with is log 10 = 2.3; all sources alike would leave about that


def test_it_exists_without_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = tiny()
        ids = torch.zeros(2, 8, dtype=torch.int64)
        assert model(ids, ids).logits.shape == (2, 8, VOCAB)
    assert all(parameter.is_meta for parameter in model.parameters())
