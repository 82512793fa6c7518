"""How well a model predicts held-out documents: the bits it needs for each of them.

A document's score is the length of its whole code: every token of its text and the end id behind it, the first one
predicted from an end id in front (a document begins where another ended). So the bits are those of a proper
distribution over documents, and divided by the bytes of the clean text they compare models of different vocabularies.

Dimensions: B windows of a batch, T tokens of a window, N scored tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_core.evals.calibration import Bins
from llm_core.evals.hiding import Hiding
from llm_core.losses import LossTerms, batch_loss
from llm_core.tokenizer import Tokenizer

Ids = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]
Padded = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class EvaluationError(ValueError):
    """Documents and model that do not go together; the message says what differs."""


@dataclass(frozen=True)
class Scoring:
    """How windows slide over a document; the numbers change the scores a little, precision only their last digits."""

    stride: int
    """Tokens that each window after a document's first one scores."""
    batch_windows: int
    """Windows of one forward pass."""
    precision: torch.dtype = torch.float32
    """bfloat16 runs the matrix products in it; probabilities are float32 in any case."""
    hiding: Hiding | None = None
    """For models that fill in: how tokens are hidden from them; stride and batch_windows do not matter then."""


@dataclass(frozen=True)
class Window:
    """Tokens [start, end) of all held-out tokens, read at once; those from `scored` on are scored."""

    document: int
    start: int
    scored: int
    end: int


def score_documents(
    model: nn.Module,
    ids: Ids,
    documents: pd.DataFrame,
    scoring: Scoring,
    progress: Callable[[int, int], None] = lambda done, total: None,
    marks: Mask | None = None,
    bins: Bins | None = None,
) -> pd.DataFrame:
    """The documents table (num_tokens, num_bytes, ...) with a column `bits`.

    `bins` are told how sure the model is of each next token, and whether it is right; only models that read on are.

    `ids` holds all documents one after another, each followed by the end id. Every token is scored once, with at least
    context - stride tokens read before it where the document has them; windows never reach into another document.
    With `marks`, one for each id, only the bits of marked tokens count; the others are read as they were in tuning.
    """
    model.eval()
    config: Any = model.config
    end_id = _check(config, ids, documents)
    if scoring.hiding is not None:
        return documents.assign(bits=_hidden_bits(model, ids, documents, scoring, progress))
    windows = plan_windows(documents["num_tokens"].tolist(), config.context, scoring.stride)
    padded = np.concatenate(([end_id], ids)).astype(np.int64)
    bits = np.zeros(len(documents))
    for first in range(0, len(windows), scoring.batch_windows):
        batch = windows[first : first + scoring.batch_windows]
        scored = _score_batch(model, padded, batch, scoring.precision, marks, bins)
        for window, window_bits in zip(batch, scored, strict=True):
            bits[window.document] += window_bits
        progress(min(first + scoring.batch_windows, len(windows)), len(windows))
    _require_finite(bits)
    return documents.assign(bits=bits)


@torch.inference_mode()
def _hidden_bits(
    model: nn.Module, ids: Ids, documents: pd.DataFrame, scoring: Scoring, progress: Callable[[int, int], None]
) -> Floats:
    """Bits of each document's tokens, each hidden once; (D,)."""
    network: Any = model
    assert scoring.hiding is not None
    device = next(network.parameters()).device
    bits = np.zeros(len(documents))
    ends = documents["num_tokens"].cumsum().to_numpy()
    for number, (end, size) in enumerate(zip(ends, documents["num_tokens"], strict=True)):
        for batch in scoring.hiding.batches(ids[end - size : end].astype(np.int64), network.config.context):
            with torch.autocast(device.type, dtype=scoring.precision, enabled=scoring.precision != torch.float32):
                bits[number] += float(batch_loss(network, batch, LossTerms())) / math.log(2)
        progress(number + 1, len(documents))
    _require_finite(bits)
    return bits


def score_texts(model: nn.Module, tokenizer: Tokenizer, texts: Iterable[str], scoring: Scoring) -> pd.DataFrame:
    """Like `score_documents` for plain texts and any model with its own tokenizer: num_tokens, num_bytes, bits."""
    texts = list(texts)
    encoded = [[*ids, tokenizer.end_id] for ids in tokenizer.encode_batch(texts)]
    sizes = {"num_tokens": [len(ids) for ids in encoded], "num_bytes": [len(text.encode()) for text in texts]}
    joined = np.fromiter((token for ids in encoded for token in ids), dtype=np.uint32)
    return score_documents(model, joined, pd.DataFrame(sizes, dtype="int64"), scoring)


def bits_per_byte(bits: Sequence[float] | pd.Series[float], num_bytes: Sequence[int] | pd.Series[int]) -> float:
    """Bits of all documents over their bytes: long documents weigh more, as in compression."""
    return float(np.sum(bits) / np.sum(num_bytes))


def plan_windows(num_tokens: Sequence[int], context: int, stride: int) -> list[Window]:
    """Windows over documents of these lengths; all but a short document's are a whole context long."""
    if not 1 <= stride <= context:
        raise EvaluationError(f"stride {stride} must be between 1 and the model's context {context}")
    windows, start = [], 0
    for document, length in enumerate(num_tokens):
        scored, end = start, start + min(context, length)
        while scored < start + length:
            windows.append(Window(document, max(start, end - context), scored, end))
            scored, end = end, min(end + stride, start + length)
        start += length
    return windows


@torch.inference_mode()
def _score_batch(
    model: nn.Module, padded: Padded, batch: list[Window], dtype: torch.dtype, marks: Mask | None, bins: Bins | None
) -> list[float]:
    """Bits of each window's scored tokens; `padded` has an end id in front, so that inputs stand one before targets."""
    device = next(model.parameters()).device
    longest = max(window.end - window.start for window in batch)
    # Short windows are padded behind: causal attention never looks there.
    inputs = torch.full((len(batch), longest), int(padded[0]))
    for row, window in enumerate(batch):
        inputs[row, : window.end - window.start] = torch.from_numpy(padded[window.start : window.end])
    network: Any = model
    head = network.output_head()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        features: Tensor = network.features(inputs.to(device))  # (B, T, C)
        scored = [row[w.scored - w.start : w.end - w.start] for row, w in zip(features, batch, strict=True)]
        # Window by window, and of scored tokens alone: logits are most of the memory.
        logits = (F.linear(part, head.weight, head.bias).float() for part in scored)
        return [_window_bits(scores, padded, window, marks, bins) for scores, window in zip(logits, batch, strict=True)]


def _window_bits(scores: Tensor, padded: Padded, window: Window, marks: Mask | None, bins: Bins | None) -> float:
    """Bits of one window's scored tokens from their logits (N, V)."""
    targets = torch.from_numpy(padded[window.scored + 1 : window.end + 1]).to(scores.device)
    if marks is not None:
        marked = torch.from_numpy(np.flatnonzero(marks[window.scored : window.end])).to(scores.device)
        scores, targets = scores[marked], targets[marked]
    losses = F.cross_entropy(scores, targets, reduction="none")
    if bins is not None:
        best = scores.amax(dim=1)
        chosen = scores.gather(1, targets[:, None])[:, 0]
        # The likeliest token's probability by the loss: log p(best) = best - target's logit - loss.
        sureness = (best - chosen - losses).double().exp()
        bins.add(sureness.clamp(0, 1).cpu().numpy(), (chosen == best).cpu().numpy())
    return float(losses.double().sum()) / math.log(2)


def _check(config: Any, ids: Ids, documents: pd.DataFrame) -> int:
    """Refuse tokens that are not these documents' or not this model's; gives the end id."""
    if not len(documents):
        raise EvaluationError("no held-out document to score; raise clean.test_share")
    ends = documents["num_tokens"].cumsum().to_numpy() - 1
    if ends[-1] + 1 != len(ids):
        raise EvaluationError(f"{len(ids)} held-out tokens, their table counts {ends[-1] + 1}; run tokenize again")
    if len(np.unique(ids[ends])) != 1:
        raise EvaluationError("held-out documents do not end with one and the same end id; run tokenize again")
    if ids.max() >= config.vocab_size:
        raise EvaluationError(
            f"token id {ids.max()} is outside the model's {config.vocab_size}; give it its own tokenizer"
        )
    return int(ids[-1])


def _require_finite(bits: Floats) -> None:
    wrong = np.flatnonzero(~np.isfinite(bits))
    if len(wrong):
        raise EvaluationError(f"document {wrong[0]} scores {bits[wrong[0]]} bits: the model's weights are damaged")
