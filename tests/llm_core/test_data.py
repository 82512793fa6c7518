"""Training batches: a pure function of seed and step that visits everything once an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llm_core.data import IGNORED, Batch, Batches, DataError, TokenShards, in_order, open_tokens
from llm_core.objectives import Causal

IDS = np.arange(1000, dtype=np.uint16)  # the id is the position


def batches(seed: int = 1, windows: int = 4, context: int = 10) -> Batches:
    return Batches(TokenShards([IDS]), context, windows, seed, Causal())


def ids_of(batch: Batch) -> torch.Tensor:
    return batch.inputs["input_ids"]


def test_targets_are_the_tokens_after_the_inputs() -> None:
    inputs, targets = ids_of(batches()[3]), batches()[3].targets
    assert inputs.shape == targets.shape == (4, 10) and inputs.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)


def test_an_epoch_visits_each_window_once_and_no_token_twice() -> None:
    source = batches(windows=7)
    assert source.windows_per_epoch == 98
    seen = torch.cat([ids_of(source[step]).flatten() for step in range(98 // 7)])
    assert len(seen.unique()) == len(seen) == 980


def test_epochs_have_orders_and_offsets_of_their_own() -> None:
    source = batches(windows=98)
    first, second = ids_of(source[0])[:, 0], ids_of(source[1])[:, 0]
    assert not torch.equal(first, second)
    assert len({int(first[0]) % 10, int(second[0]) % 10, int(ids_of(source[2])[0, 0]) % 10}) > 1


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    walked = batches()
    for step in range(60):  # past the end of two epochs
        walked[step]
    assert torch.equal(ids_of(walked[60]), ids_of(batches()[60]))
    assert not torch.equal(ids_of(walked[60]), ids_of(batches(seed=2)[60]))


def test_a_batch_may_span_two_epochs() -> None:
    assert ids_of(batches(windows=60)[1]).shape == (60, 10)


def test_too_few_tokens_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"20 training tokens .* windows of 10; add text or lower model.context"):
        Batches(TokenShards([IDS[:20]]), context=10, windows=1, seed=0, objective=Causal())
    assert Batches(TokenShards([IDS[:21]]), context=10, windows=1, seed=0, objective=Causal()).windows_per_epoch == 1


def test_reading_in_order_gives_every_whole_window_once() -> None:
    starts = torch.cat([ids_of(batch)[:, 0] for batch in in_order(TokenShards([IDS[:95]]), 10, 4, Causal())])
    assert starts.tolist() == list(range(0, 90, 10))
    assert list(in_order(TokenShards([IDS[:10]]), 10, 4, Causal())) == []


def test_shards_are_one_array_wherever_they_are_cut() -> None:
    cuts = [0, 1, 1, 333, 334, 900, 1000]
    cut = TokenShards([IDS[start:end] for start, end in zip(cuts, cuts[1:], strict=False)])
    assert len(cut) == 1000
    for start, stop in [(0, 1000), (0, 1), (1, 333), (332, 335), (899, 901), (5, 5), (990, 2000), (-3, None)]:
        assert cut[start:stop].tolist() == IDS[start:stop].tolist()
    whole = batches(windows=7)
    assert all(torch.equal(ids_of(Batches(cut, 10, 7, 1, Causal())[step]), ids_of(whole[step])) for step in range(30))


def test_token_shards_are_mapped_in_order_and_others_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no token arrays here; run the tokenize stage again"):
        open_tokens(tmp_path, "train")
    np.save(tmp_path / "00001-00000.train.tokens.npy", IDS[600:])
    np.save(tmp_path / "00000-00000.train.tokens.npy", IDS[:600])
    assert open_tokens(tmp_path, "train")[:].tolist() == IDS.tolist()
    assert isinstance(open_tokens(tmp_path, "train")[:600], np.memmap)
    assert len(open_tokens(tmp_path, "validation")) == 0
    np.save(tmp_path / "00000-00000.test.tokens.npy", IDS.astype(np.float32))
    with pytest.raises(DataError, match="1-D float32, a token array is 1-D uint16 or uint32"):
        open_tokens(tmp_path, "test")
    (tmp_path / "00000-00000.test.tokens.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"00000-00000\.test\.tokens\.npy: not a token array"):
        open_tokens(tmp_path, "test")


MASK = np.arange(1000) % 3 == 0


def save_shards(folder: Path, masks: tuple[np.ndarray | None, ...], cuts: tuple[int, ...] = (0, 333, 1000)) -> None:
    for number, (start, end, mask) in enumerate(zip(cuts, cuts[1:], masks, strict=False)):
        np.save(folder / f"{number:05}.train.tokens.npy", IDS[start:end])
        if mask is not None:
            np.save(folder / f"{number:05}.train.loss.npy", mask)


def marked_only(inputs: torch.Tensor, marked: np.ndarray) -> torch.Tensor:
    """The targets of these inputs, IGNORED where `marked` says no; an id is its position."""
    after = inputs + 1
    return after.where(torch.from_numpy(marked)[after], IGNORED)


def test_targets_that_a_mask_does_not_mark_are_ignored(tmp_path: Path) -> None:
    save_shards(tmp_path, (MASK[:333], MASK[333:]))
    tokens = open_tokens(tmp_path, "train")
    marked, plain = Batches(tokens, 10, 7, 1, Causal()), batches(windows=7)
    for step in range(30):
        inputs, targets = ids_of(marked[step]), marked[step].targets
        assert torch.equal(inputs, ids_of(plain[step]))
        assert torch.equal(targets, marked_only(inputs, MASK))
    for batch in in_order(tokens.head(350), 10, 4, Causal()):
        assert torch.equal(batch.targets, marked_only(ids_of(batch), MASK))
    assert len(tokens.head(350)) == 350


def test_a_shard_without_a_mask_counts_whole_and_no_mask_at_all_changes_nothing(tmp_path: Path) -> None:
    save_shards(tmp_path, (MASK[:333], None))
    batch = next(in_order(open_tokens(tmp_path, "train"), 999, 1, Causal()))
    inputs, targets = ids_of(batch), batch.targets
    assert torch.equal(targets, marked_only(inputs, MASK | (np.arange(1000) >= 333)))
    (tmp_path / "00000.train.loss.npy").unlink()
    assert type(open_tokens(tmp_path, "train")) is TokenShards


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK[:332], r"bool of shape \(332,\), the mask of these tokens is bool of shape \(333,\); make the tokens"),
        (MASK[:333].astype(np.int8), r"int8 of shape \(333,\), the mask of these tokens is bool"),
        (MASK[:333].reshape(3, 111), r"bool of shape \(3, 111\), the mask of these tokens is bool"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(tmp_path: Path, mask: np.ndarray, message: str) -> None:
    save_shards(tmp_path, (mask, None))
    with pytest.raises(DataError, match=rf"00000\.train\.loss\.npy: {message}"):
        open_tokens(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"no array"])
def test_a_damaged_mask_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    save_shards(tmp_path, (MASK[:333], None))
    (tmp_path / "00000.train.loss.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"00000\.train\.loss\.npy: not a loss mask .*; make the tokens again"):
        open_tokens(tmp_path, "train")
