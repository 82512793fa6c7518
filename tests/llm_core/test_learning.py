"""Each task's head learns a toy task within a second through the training's own copy, loss and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean

import pytest
import torch

from llm_core.config import Model, Train
from llm_core.data import IGNORED, Batch, Windows
from llm_core.models import build
from llm_core.models.interface import Network
from llm_core.objectives import Causal, Masked, Spans, labelled, pairs
from llm_core.working_copy import Running, WorkingCopy
from tests.llm_core.models.checks import losses_in_training

VOCABULARY, CONTEXT, ROWS = 24, 16, 16
Make = Callable[[int], Batch]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network_of(family: str, task: str | None) -> Network:
    shape = Model(family=family, num_layers=1, width=32, num_heads=2, num_kv_heads=2, mlp_width=64, context=CONTEXT)
    return build(shape, VOCABULARY, end_id=0, seed=1, task=task, num_labels=3)  # type: ignore[arg-type]


def texts(seed: int, length: int = CONTEXT) -> list[list[int]]:
    """Texts of several lengths over the ids 4 to 19."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 20, (ROWS, length), generator=generator).tolist()
    return [row[: 8 + number % 9] for number, row in enumerate(ids)]


def cycle(seed: int, step: int = 1) -> Windows:
    """Each token is the one before plus `step`."""
    starts = torch.randint(0, 16, (ROWS, 1), generator=torch.Generator().manual_seed(seed))
    ids = (starts + step * torch.arange(CONTEXT + 1)) % 16 + 4
    return Windows(ids.numpy(), None, [(seed, row) for row in range(ROWS)])


def copying(seed: int) -> Batch:
    """Write the first three tokens of a text, the end id behind."""
    sources = texts(seed)
    return pairs(sources, [[*row[:3], 0] for row in sources], start_id=0, pad_id=1)


def first_token(seed: int) -> Batch:
    """A text's label is which third of the ids its first token is of."""
    sources = texts(seed)
    return labelled(sources, torch.tensor([row[0] % 3 for row in sources]), pad_id=1)


def last_token(seed: int) -> Batch:
    sources = texts(seed)
    return labelled(sources, torch.tensor([row[-1] % 3 for row in sources]), pad_id=1)


def every_token(seed: int) -> Batch:
    sources = texts(seed)
    labels = torch.full((ROWS, max(map(len, sources))), IGNORED)
    for row, text in enumerate(sources):
        labels[row, : len(text)] = torch.tensor(text) % 3
    return labelled(sources, labels, pad_id=1)


def answers(seed: int) -> Batch:
    """The answer lies between the tokens 20 and 21."""
    sources, spans = texts(seed), []
    for number, row in enumerate(sources):
        first = number % (len(row) - 3)
        row[first], row[first + 2] = 20, 21
        spans.append([first, first + 2])
    return labelled(sources, torch.tensor(spans), pad_id=1)


def alike(seed: int) -> Batch:
    """Two texts of a group hold the same tokens in another order."""
    halves = texts(seed)[: ROWS // 2]
    return labelled([*halves, *[row[::-1] for row in halves]], torch.arange(ROWS // 2).repeat(2), pad_id=1)


TASKS: list[tuple[str, str | None, Make]] = [
    ("llama", None, lambda seed: Causal()(cycle(seed))),
    ("gpt2", None, lambda seed: Causal()(cycle(seed))),
    ("lstm", None, lambda seed: Causal()(cycle(seed))),
    ("bert", None, lambda seed: Masked(0.2, 22, 0)(cycle(seed, step=0))),
    ("t5", None, lambda seed: Spans(0.2, 2.0, 20, 0)(cycle(seed))),
    ("t5", None, copying),
    ("transformer", None, copying),
    ("bert", "sequence_classification", first_token),
    ("llama", "sequence_classification", last_token),
    ("bert", "token_classification", every_token),
    ("lstm", "token_classification", every_token),
    ("bert", "question_answering", answers),
    ("t5", "question_answering", answers),
    ("bert", "embedding", alike),
    ("llama", "embedding", alike),
]


def is_learnt(losses: Sequence[float]) -> bool:
    return len(losses) >= 10 and mean(losses[-10:]) < 0.5 * mean(losses[:5])


@pytest.mark.parametrize(("family", "task", "make"), TASKS)
def test_a_toy_task_is_learnt(family: str, task: str | None, make: Make) -> None:
    rates = {"lr": 5e-3, "embedding_lr": 2e-2, "head_lr": 5e-3, "norm_lr": 5e-3}
    cfg = Train(optimizer="adamw", steps=150, warmup_steps=10, decay_share=0.0, **rates)
    losses: list[float] = []
    for loss in losses_in_training(network_of(family, task), map(make, range(cfg.steps)), cfg):
        losses.append(loss)
        if is_learnt(losses):
            break
    assert is_learnt(losses), f"{mean(losses[:5]):.3f} to {mean(losses[-10:]):.3f}"


@pytest.mark.parametrize(("family", "task", "make"), [each for each in TASKS if each[1]])
def test_padding_changes_no_loss(family: str, task: str, make: Make) -> None:
    """What stands where the segments are 0 is not looked at, by the network or by the loss."""
    network, batch = network_of(family, task), make(1)
    other = {**batch.inputs, "input_ids": batch.inputs["input_ids"].where(batch.inputs["segments"] > 0, 13)}
    losses = [
        WorkingCopy(network, Train(), Running()).validation_loss([Batch(inputs, batch.targets)])
        for inputs in (batch.inputs, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
