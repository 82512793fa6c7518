"""The work of /v1/explain: which tokens of a request's text speak for what the model says, and where they look."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llm_core.evals.attention import attention, rollout, strongest_heads
from llm_core.evals.explain import Explanation, Score, continuation_score, explaining, label_score
from llm_core.evals.nearest import INDEX, nearest
from llm_core.serving.answering import prompt_ids
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.reading import check_length, encode, invalid, named, plain
from llm_core.serving.reply_schema import ReadUsage
from llm_core.serving.task_schema import (
    AttentionHead,
    AttentionMaps,
    ExplainReply,
    ExplainRequest,
    TokenAttribution,
    TrainingPassage,
)
from llm_core.serving.workers import Work

MOST_ATTENDED, SHOWN_HEADS = 128, 4


class _Question(NamedTuple):
    """What is explained, and the tokens that are asked."""

    ids: list[int]
    pieces: Sequence[tuple[int, int] | None]
    """Where each token stands in its text; none for those that are no part of it."""
    texts: Sequence[str]
    """The text of each token."""
    target: str
    score: Score
    is_label: bool = False


def explain(model: LoadedModel, body: ExplainRequest, indexes: Path | None = None) -> Work[ExplainReply]:
    """How much each token speaks for a label, or for how a text goes on.

    `indexes` has one of the training documents for each digest of tokens that models were trained on.
    """
    index = _index(model, indexes) if body.nearest else None
    ask = _label_question if model.task == "sequence_classification" else _continuation_question
    question = ask(model, body)
    yield
    found = yield from _explained(model, body, question)
    shares = found.attributions[: len(question.pieces)]
    tokens = [_told(model, question, place, share) for place, share in enumerate(shares)]
    if body.attention or index:
        yield
    return ExplainReply(
        target=question.target,
        score=found.score,
        baseline_score=found.baseline_score,
        gap=found.gap,
        tokens=tokens,
        attention=_attention(model, question) if body.attention else None,
        passages=_passages(index, body.input, question) if index else None,
        usage=ReadUsage.of(len(question.ids)),
        **named(model),
    )


def _explained(model: LoadedModel, body: ExplainRequest, question: _Question) -> Generator[None, None, Explanation]:
    network: Any = model.network
    kept = [piece is None for piece in question.pieces]
    kept += [True] * (len(question.ids) - len(kept))  # what a language model goes on with
    config = network.config
    padding = (model.codec.special_id("pad_token"), getattr(config, "pad_id", None), config.end_id)
    pad_id = next((token_id for token_id in padding if token_id is not None), None)
    if body.baseline == "pad" and pad_id is None:
        raise invalid(f"baseline 'pad': {model.name} has no padding; take 'zero' or 'mean'", "baseline")
    settings: Any = {"baseline": body.baseline, "pad_id": pad_id, "steps": body.steps}
    return (yield from explaining(network, question.ids, question.score, kept=kept, **settings))


def _index(model: LoadedModel, indexes: Path | None) -> Path:
    """Raises ApiError where there is none: training text is told by a server that was started to tell it only."""
    digest = model.card.parents.get("tokenize")
    if indexes is None or digest is None or not (indexes / digest / INDEX).is_file():
        told = (
            "was not started with --nearest" if indexes is None else f"has no index of what {model.name} was trained on"
        )
        raise invalid(f"nearest: this server {told}; ask without it", "nearest")
    return indexes / digest


def _passages(index: Path, text: str, question: _Question) -> list[TrainingPassage]:
    whole = text if question.is_label else text + question.target
    return [
        TrainingPassage(
            num_words=each.num_words,
            start=each.start,
            end=each.end,
            document=each.sha256,
            source=each.source,
            first=each.first,
            last=each.last,
            passage=each.passage,
        )
        for each in nearest(index, whole)
    ]


def _attention(model: LoadedModel, question: _Question) -> AttentionMaps:
    network: Any = model.network
    ids = question.ids[: len(question.pieces)]
    if len(ids) > MOST_ATTENDED:
        raise invalid(f"attention: {len(ids)} tokens; at most {MOST_ATTENDED} are drawn", "attention")
    try:
        own = attention(network, ids).own
    except ValueError as problem:
        raise invalid(f"attention: {problem}", "attention") from None
    heads = [
        AttentionHead(layer=layer, head=head, weights=_rounded(own[layer, head]))
        for layer, head in strongest_heads(own, SHOWN_HEADS)
    ]
    return AttentionMaps(layers=_rounded(own.mean(dim=1)), rollout=_rounded(rollout(own)), heads=heads)


def _rounded(weights: torch.Tensor) -> Any:
    return weights.double().round(decimals=4).tolist()


def _label_question(model: LoadedModel, body: ExplainRequest) -> _Question:
    network: Any = model.network
    encoding = encode(model, body.input, body.text_pair)
    check_length(model, encoding.ids)
    has_types = hasattr(network.config, "num_token_types") and any(encoding.type_ids)
    inputs = {"token_types": torch.tensor([encoding.type_ids])} if has_types else {}
    labels: tuple[str, ...] = network.config.labels
    if body.target is None:
        with torch.inference_mode():
            label = int(network(torch.tensor([encoding.ids]), **inputs).logits[0].argmax())
    elif body.target in labels:
        label = labels.index(body.target)
    else:
        raise invalid(f"target {body.target!r} is no label of {model.name}; there are {', '.join(labels)}", "target")
    pieces = [
        None if is_special else offsets
        for is_special, offsets in zip(encoding.special_tokens_mask, encoding.offsets, strict=True)
    ]
    texts = [body.text_pair or "" if number == 1 else body.input for number in encoding.sequence_ids]
    return _Question(encoding.ids, pieces, texts, labels[label], label_score(label, **inputs), is_label=True)


def _continuation_question(model: LoadedModel, body: ExplainRequest) -> _Question:
    if body.text_pair is not None:
        raise invalid(f"text_pair: {model.name} reads one text; leave it out", "text_pair")
    encoding = plain(model, body.input)
    given = list(prompt_ids(model, body.input))
    check_length(model, given)
    more = _likeliest(model, given) if body.target is None else plain(model, body.target, "target").ids
    check_length(model, more, "target")
    ids = [*given, *more]
    check_length(model, ids)
    pieces = [*[None] * (len(given) - len(encoding.ids)), *encoding.offsets]
    target = model.codec.decode(more, skip_specials=False)
    return _Question(ids, pieces, [body.input] * len(pieces), target, continuation_score(len(given)))


@torch.inference_mode()
def _likeliest(model: LoadedModel, ids: Sequence[int]) -> list[int]:
    return [int(model.network(torch.tensor([ids])).logits[0, -1].argmax())]


def _told(model: LoadedModel, question: _Question, place: int, share: float) -> TokenAttribution:
    token, piece = model.codec.rust.id_to_token(question.ids[place]) or "", question.pieces[place]
    if piece is None:
        return TokenAttribution(token=token, text="", start=None, end=None, attribution=share)
    start, end = piece
    text = question.texts[place][start:end]
    return TokenAttribution(token=token, text=text, start=start, end=end, attribution=share)
