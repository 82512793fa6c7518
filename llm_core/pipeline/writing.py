"""Pipelines that write text: continuations of a prompt, and texts made from a source."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from llm_core.generate import (
    Beams,
    ContextExceeded,
    Generated,
    Sampling,
    StopStrings,
    beam_search,
    decode,
    generate_batch,
    room_for_answer,
)
from llm_core.models.interface import Network
from llm_core.pipeline.codec import Codec, Continuation, texts_of

SAMPLING = frozenset(field.name for field in fields(Sampling)) - {"min_tokens", "seed"}
BEAMS = ("length_penalty", "early_stopping")
OTHERS = (
    "do_sample",
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "num_return_sequences",
    "prefix",
    "return_full_text",
    "seed",
    "stop",
)
OPTIONS = tuple(sorted({*SAMPLING, *BEAMS, *OTHERS}))
DEFAULT_NEW_TOKENS = 256


class Writing:
    """What the pipelines that write have in common: the options, and the way from texts to texts."""

    defaults: Mapping[str, Any] = {}
    result_key = "generated_text"

    def __init__(self, network: Network, codec: Codec, task: str) -> None:
        self._network, self._codec, self.task = network, codec, task
        config = network.config
        ends = (config.end_id, codec.special_id("eos_token"), *getattr(config, "stop_ids", ()))
        self._stop_ids = frozenset(token_id for token_id in ends if token_id is not None)

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> Any:
        """Dicts with the new texts."""
        raise NotImplementedError

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """The pieces of one answer as they are written, without the prompt."""
        given = self._checked(options)
        if given.get("num_beams", 1) > 1 or given.get("num_return_sequences", 1) > 1:
            raise ValueError("a stream is one sequence: leave out num_beams and num_return_sequences")
        (ids,) = self._read([text], given)
        limit = self._max_tokens(ids, given)
        tokens = decode(self._network, ids, max_tokens=limit, sampling=self._sampling(given), stop_ids=self._stop_ids)
        return self._pieces(tokens, ids, StopStrings(texts_of(given.get("stop", ()))))

    def _pieces(self, tokens: Iterator[Any], ids: list[int], stop: StopStrings) -> Iterator[str]:
        new_text = self._continuation(ids)
        for token in tokens:
            if token.id in self._stop_ids:
                break
            yield stop.feed(new_text.push(token.id))
            if stop.is_hit:
                return
        yield stop.feed(new_text.finish()) + stop.flush()

    def _write(self, texts: Sequence[str], options: Mapping[str, Any]) -> list[list[str]]:
        """For each text the new texts."""
        given = self._checked(options)
        prompts = self._read(texts, given)
        limits = [self._max_tokens(ids, given) for ids in prompts]
        sampling, num_return = self._sampling(given), given.get("num_return_sequences", 1)
        if given.get("num_beams", 1) > 1:
            settings = {key: given[key] for key in BEAMS if key in given}
            beams = Beams(given["num_beams"], num_return_sequences=num_return, **settings)
            found = beam_search(
                self._network, prompts, max_tokens=limits, beams=beams, penalties=sampling, stop_ids=self._stop_ids
            )
            pairs = zip(prompts, found, strict=True)
            return [[self._text(ids, answer) for answer in answers] for ids, answers in pairs]
        found = self.answers(
            prompts, limits, sampling, texts_of(given.get("stop", ())), num_return_sequences=num_return
        )
        return [[str(answer.text) for answer in answers] for answers in found]

    def read(self, text: str) -> list[int]:
        """A text as ids; raises ValueError for one that this model cannot read."""
        ids = self._codec.prompt(text)
        room_for_answer(self._network, ids)
        return ids

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int | Sequence[int],
        sampling: Sampling,
        stop: Sequence[str] = (),
        **options: Any,
    ) -> list[list[Generated]]:
        """The answers to each prompt; `options` are those of `generate_batch`."""
        return generate_batch(
            self._network,
            prompts,
            max_tokens=max_tokens,
            sampling=sampling,
            stop_ids=self._stop_ids,
            stop=stop,
            new_text=self._continuation,
            **options,
        )

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        if strange := sorted(options.keys() - set(OPTIONS)):
            raise ValueError(f"{strange[0]} is no option of {self.task}; there are {', '.join(OPTIONS)}")
        given = {**self.defaults, **{key: value for key, value in options.items() if value is not None}}
        for key in ("max_length", "max_new_tokens", "num_beams", "num_return_sequences"):
            if key in given and not (isinstance(given[key], int) and given[key] >= 1):
                raise ValueError(f"{key} {given[key]!r} must be a whole number of at least 1")
        if given.get("num_beams", 1) > 1:
            for key in ("stop", "do_sample"):
                if given.get(key):
                    raise ValueError(f"{key} is not supported with num_beams above 1; leave one of them out")
        elif given.get("num_return_sequences", 1) > 1 and not self._draws(given):
            raise ValueError("num_return_sequences above 1 needs do_sample or num_beams: the likeliest text is one")
        return given

    def _draws(self, given: Mapping[str, Any]) -> bool:
        """Whether tokens are drawn, or the likeliest taken."""
        return bool(given.get("do_sample", True) and given.get("temperature", 1) and given.get("num_beams", 1) == 1)

    def _sampling(self, given: Mapping[str, Any]) -> Sampling:
        settings = {key: given[key] for key in SAMPLING if key in given}
        if not self._draws(given):
            settings["temperature"] = 0.0
        seed = given.get("seed", secrets.randbits(62))
        return Sampling(**settings, seed=seed, min_tokens=given.get("min_new_tokens", 0))

    def _read(self, texts: Sequence[str], given: Mapping[str, Any]) -> list[list[int]]:
        return [self.read(given.get("prefix", "") + text) for text in texts]

    def _max_tokens(self, ids: Sequence[int], given: Mapping[str, Any]) -> int:
        return given.get("max_new_tokens") or given.get("max_length") or DEFAULT_NEW_TOKENS

    def _continuation(self, ids: Sequence[int]) -> Continuation:
        return Continuation(self._codec)

    def _text(self, ids: Sequence[int], answer: Generated) -> str:
        new_text = self._continuation(ids)
        return "".join(map(new_text.push, answer.ids)) + new_text.finish()


class TextGeneration(Writing):
    """Continues prompts: a list of ``{"generated_text"}`` for a text, a list of such lists for several."""

    defaults = {"temperature": 0.7, "top_k": 50}

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> Any:
        texts = texts_of(inputs)
        shown = options.get("return_full_text") is not False
        results = [
            [{self.result_key: text + new if shown else new} for new in answers]
            for text, answers in zip(texts, self._write(texts, options), strict=True)
        ]
        return results[0] if isinstance(inputs, str) else results

    def _max_tokens(self, ids: Sequence[int], given: Mapping[str, Any]) -> int:
        if "max_new_tokens" in given or "max_length" not in given:
            return super()._max_tokens(ids, given)
        left: int = given["max_length"] - len(ids)
        if left < 1:
            raise ContextExceeded(
                f"max_length {given['max_length']} leaves no token behind a prompt of {len(ids)}; "
                "raise it, or give max_new_tokens"
            )
        return left

    def _continuation(self, ids: Sequence[int]) -> Continuation:
        return Continuation(self._codec, ids)


class TextToText(Writing):
    """Makes texts from sources: a list of dicts, for several sources with several texts each a list of lists."""

    defaults = {"do_sample": False}

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> Any:
        texts = texts_of(inputs)
        results = [[{self.result_key: new} for new in answers] for answers in self._write(texts, options)]
        if isinstance(inputs, str):
            return results[0]
        return [answers[0] for answers in results] if all(len(answers) == 1 for answers in results) else results


class Summarization(TextToText):
    """Shorter texts: ``summary_text``."""

    result_key = "summary_text"


class Translation(TextToText):
    """Texts in another language: ``translation_text``."""

    result_key = "translation_text"
