"""Pipelines that read text: fill in a mask, classify texts or tokens, find answers, give vectors.

Dimensions: T tokens, V vocabulary, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor

from llm_core.generate import ContextExceeded
from llm_core.models.interface import Network
from llm_core.pipeline.codec import texts_of
from llm_core.pipeline.reading import Understanding


class FillMask(Understanding):
    """The likeliest tokens for each mask: dicts of score, token, token_str, sequence; a list of them for each mask
    where there are several."""

    def __call__(self, inputs: str | Sequence[str], top_k: int = 5, targets: str | Sequence[str] | None = None) -> Any:
        results = [self._fill(text, top_k, self._target_ids(targets)) for text in texts_of(inputs)]
        return results[0] if isinstance(inputs, str) else results

    def _fill(self, text: str, top_k: int, targets: Tensor | None) -> Any:
        encoding = self.read(text)
        places = self.masks(encoding)
        shares = self.logits([encoding])[0][places].softmax(-1)
        rows = []
        for place, row in zip(places, shares, strict=True):
            row = row if targets is None else row[targets]
            best = row.topk(min(top_k, len(row)))
            ids = best.indices if targets is None else targets[best.indices]
            rows.append(
                [
                    self._filled(encoding, place, token_id, score, is_only=len(places) == 1)
                    for token_id, score in zip(ids.tolist(), best.values.tolist(), strict=True)
                ]
            )
        return rows[0] if len(rows) == 1 else rows

    def masks(self, encoding: Encoding) -> list[int]:
        """Where the masks stand; raises ValueError where there are none."""
        mask_id = self._codec.special_id("mask_token")
        if mask_id is None:
            raise ValueError("tokenizer_config.json names no mask_token; fill-mask needs a masked language model")
        places = [place for place, token_id in enumerate(encoding.ids) if token_id == mask_id]
        if not places:
            raise ValueError(
                f"the text has no mask; write {self._codec.rust.id_to_token(mask_id)} where a word is missing"
            )
        return places

    def likeliest(self, encoding: Encoding, logits: Tensor) -> tuple[str, float]:
        """The text with the likeliest token in each mask's place, and the product of these tokens' probabilities."""
        places = self.masks(encoding)
        best = logits[places].softmax(-1).max(-1)
        ids = list(encoding.ids)
        for place, token_id in zip(places, best.indices.tolist(), strict=True):
            ids[place] = token_id
        return self._codec.decode(ids), float(best.values.prod())

    def _filled(self, encoding: Encoding, place: int, token_id: int, score: float, is_only: bool) -> dict[str, Any]:
        ids = [*encoding.ids[:place], token_id, *encoding.ids[place + 1 :]]
        # Special tokens are left out, but not the other masks.
        text = self._codec.decode(ids, skip_specials=is_only)
        return {
            "score": score,
            "token": token_id,
            "token_str": self._codec.decode([token_id], skip_specials=False),
            "sequence": text,
        }

    def _target_ids(self, targets: str | Sequence[str] | None) -> Tensor | None:
        if targets is None:
            return None
        ids = {target: self._codec.rust.token_to_id(target) for target in texts_of(targets)}
        if lost := [target for target, token_id in ids.items() if token_id is None]:
            raise ValueError(f"targets {lost[0]!r} is no token of this vocabulary; give whole tokens")
        return torch.tensor(sorted(set(ids.values())))


class TextClassification(Understanding):
    """The label of a text, ``[{"label", "score"}]``; of several texts a list of dicts. With `top_k` (None for all) the
    labels of each text, best first. A pair of texts is ``{"text": .., "text_pair": ..}``."""

    def __call__(self, inputs: Any, top_k: int | None = 0) -> Any:
        is_one = isinstance(inputs, str | Mapping)
        results = [self.labels(self.logits([self._read(text)])[0]) for text in ([inputs] if is_one else inputs)]
        if top_k == 0:
            return [labels[0] for labels in results]
        results = [labels[:top_k] for labels in results]
        return results[0] if is_one else results

    def _read(self, text: str | Mapping[str, str]) -> Encoding:
        return self.read(text) if isinstance(text, str) else self.read(text["text"], text.get("text_pair"))

    def labels(self, logits: Tensor) -> list[dict[str, Any]]:
        """All labels of a text with their probabilities, best first."""
        # One label is a yes or no, several exclude each other.
        shares = logits.sigmoid() if len(logits) == 1 else logits.softmax(-1)
        named = zip(self._network.config.labels, shares.tolist(), strict=True)
        return sorted(({"label": label, "score": score} for label, score in named), key=lambda found: -found["score"])


class TokenClassification(Understanding):
    """Labels of tokens: dicts of entity, score, index, word, start, end, without those labelled O. With
    ``aggregation_strategy="simple"`` neighbours of one kind are one: entity_group, score, word, start, end."""

    def __call__(
        self,
        inputs: str | Sequence[str],
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] = ("O",),
    ) -> Any:
        if aggregation_strategy not in ("none", "simple"):
            raise ValueError(f"aggregation_strategy {aggregation_strategy!r} must be 'none' or 'simple'")
        results = []
        for text in texts_of(inputs):
            encoding = self.read(text)
            found = self._tokens(text, encoding, self.logits([encoding])[0])
            if aggregation_strategy == "simple":
                found = self._grouped(found)
            key = "entity" if aggregation_strategy == "none" else "entity_group"
            results.append([entity for entity in found if entity[key] not in ignore_labels])
        return results[0] if isinstance(inputs, str) else results

    def entities(self, text: str, encoding: Encoding, logits: Tensor) -> list[dict[str, Any]]:
        """The entities of a text, neighbours of one kind as one."""
        return [found for found in self._grouped(self._tokens(text, encoding, logits)) if found["entity_group"] != "O"]

    def _tokens(self, text: str, encoding: Encoding, logits: Tensor) -> list[dict[str, Any]]:
        labels = self._network.config.labels
        unknown = self._codec.special_id("unk_token")
        words = [
            text[slice(*offsets)] if token_id == unknown else token
            for token, token_id, offsets in zip(encoding.tokens, encoding.ids, encoding.offsets, strict=True)
        ]
        best = logits.softmax(-1).max(-1)
        return [
            {
                "entity": labels[label],
                "score": score,
                "index": place,
                "word": words[place],
                "start": encoding.offsets[place][0],
                "end": encoding.offsets[place][1],
            }
            for place, (label, score) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            if not encoding.special_tokens_mask[place]
        ]

    def _grouped(self, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
        groups: list[list[dict[str, Any]]] = []
        for entity in entities:
            begins, kind = _tag(entity["entity"])
            if groups and not begins and kind == _tag(groups[-1][-1]["entity"])[1]:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        decoder = self._codec.rust.decoder
        return [
            {
                "entity_group": _tag(group[0]["entity"])[1],
                "score": sum(entity["score"] for entity in group) / len(group),
                "word": decoder.decode([entity["word"] for entity in group]) if decoder else group[0]["word"],
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity (B-), and the kind that it names."""
    mark, dash, kind = label.partition("-")
    return (mark == "B", kind) if dash and mark in ("B", "I") else (False, label)


class QuestionAnswering(Understanding):
    """The part of a context that answers a question: a dict of score, start, end, answer; with `top_k` above 1 a list.

    The score is the product of the probabilities, among the context's tokens, that the answer begins and ends there.
    Contexts longer than the model reads are cut into windows that overlap by `doc_stride` tokens.
    """

    def __call__(
        self, question: str, context: str, top_k: int = 1, max_answer_len: int = 15, doc_stride: int = 128
    ) -> Any:
        reading = self.reading(question, context, top_k, max_answer_len, doc_stride)
        while True:
            try:
                next(reading)
            except StopIteration as end:
                if top_k == 1 and not end.value:
                    raise ValueError("no token of the context could be an answer; give a context with words") from None
                return end.value[0] if top_k == 1 else end.value

    def reading(
        self, question: str, context: str, top_k: int, max_answer_len: int, doc_stride: int = 128
    ) -> Generator[None, None, list[dict[str, Any]]]:
        """The likeliest answers, best first, none where the context has no token; yields after each window, so that
        others get their turn."""
        if not question.strip() or not context.strip():
            raise ValueError("question and context must both have text")
        windows = self.windows(question, context, doc_stride)
        logits: list[Tensor] = []
        for window in windows:
            logits += self.logits([window])
            yield
        return self.answers(context, windows, logits, top_k, max_answer_len)

    def answers(
        self,
        context: str,
        windows: Sequence[Encoding],
        logits: Sequence[Tensor],
        top_k: int = 1,
        max_answer_len: int = 15,
    ) -> list[dict[str, Any]]:
        """The best answers that the windows of one context hold, best first."""
        found = [
            answer
            for window, scores in zip(windows, logits, strict=True)
            for answer in self._spans(window, scores, top_k, max_answer_len)
        ]
        answers: dict[tuple[int, int], dict[str, Any]] = {}
        for score, start, end in sorted(found, reverse=True):  # a span of two windows counts once
            answer = {"score": score, "start": start, "end": end, "answer": context[start:end]}
            answers.setdefault((start, end), answer)
        return list(answers.values())[:top_k]

    def windows(self, question: str, context: str, stride: int = 128) -> list[Encoding]:
        """The question with each part of the context that this model can read at a time."""
        longest = self._network.config.context
        whole = self._codec.encode(question, context)
        if len(whole.ids) <= longest:
            return [whole]
        room = longest - len(self._codec.encode(question, "").ids)
        if room < 1:
            raise ContextExceeded(f"this model reads {longest} tokens and the question leaves no room for the context")
        rust = self._codec.copied()  # others may be reading with it, and they want no windows
        rust.enable_truncation(longest, stride=min(stride, room - 1), strategy="only_second")
        whole = rust.encode(question, context)
        return [whole, *whole.overflowing]

    def _spans(self, window: Encoding, logits: Tensor, top_k: int, longest: int) -> list[tuple[float, int, int]]:
        """Score, start and end of the best spans of a window, by the logits (T, 2) of its tokens."""
        inside = torch.tensor([sequence == 1 for sequence in window.sequence_ids])
        begins, ends = logits.masked_fill(~inside[:, None], float("-inf")).softmax(0).unbind(-1)
        # The answer begins at the row's token and ends at the column's, at most `longest` tokens later.
        scores = torch.outer(begins, ends).triu().tril(longest - 1)
        best = scores.flatten().topk(min(top_k, scores.numel()))
        spans = []
        for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            first, last = divmod(place, len(scores))
            if score > 0:
                spans.append((score, window.offsets[first][0], window.offsets[last][1]))
        return spans


class FeatureExtraction(Understanding):
    """States of the tokens, nested lists [[C numbers] of each token] in a list of one; ``pooling="mean"`` gives one
    vector (C) a text."""

    def __call__(self, inputs: str | Sequence[str], pooling: str | None = None) -> Any:
        if pooling not in (None, "mean"):
            raise ValueError(f"pooling {pooling!r} must be 'mean' or left out")
        results = []
        for text in texts_of(inputs):
            (states,) = self.states([self.read(text)])
            results.append([states.tolist()] if pooling is None else states.mean(0).tolist())
        return results[0] if isinstance(inputs, str) else results

    def states(self, encodings: Sequence[Encoding]) -> list[Tensor]:
        """(T, C) of each text."""
        read = states_of(self._network)
        return self._through(lambda ids, more: read(ids, **more), encodings)


def states_of(network: Network) -> Callable[..., Tensor]:
    """What gives the states (B, T, C) of ids (B, T): the body, of an encoder-decoder its encoder."""
    body: Any = network.get_submodule(network.body)
    read: Callable[..., Tensor] = getattr(body, "encode", None) or getattr(body, "states", None) or body
    return read
