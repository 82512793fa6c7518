"""The answers of the HTTP API: the engine's events in OpenAI's JSON, whole or as a stream of chunks."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llm_core.generate import Token
from llm_core.serving.loaded import LoadedModel
from llm_core.tokenizer import StreamDecoder, Tokenizer


@dataclass
class Choice:
    """One answer as far as it is written."""

    text: str = ""
    """With the prompt in front, where it is given back."""
    tokens: list[Token] = field(default_factory=list)
    prompt_tokens: list[Token] = field(default_factory=list)
    """The prompt's, where they are told; without a log-probability (NaN) where it has none."""
    finish_reason: str | None = None
    num_tokens: int = 0
    num_cached: int = 0
    rank: float | None = None
    """What the best of several answers is chosen by, where it is not the answer's own likelihood."""

    @property
    def likelihood(self) -> float:
        """What the best of several answers is chosen by: the mean log-probability of its tokens, or its rank."""
        if self.rank is not None:
            return self.rank
        return sum(token.logprob for token in self.tokens) / max(len(self.tokens), 1)


class Echo(NamedTuple):
    """A prompt that is given back."""

    text: str
    first: Token | None = None
    """Its first token, which has no log-probability; None where a hidden token stands before it."""


class Frame:
    """What all chunks of one response share."""

    def __init__(self, model: LoadedModel, num_prompt_tokens: int, with_logprobs: bool, with_usage: bool) -> None:
        self.model, self.num_prompt_tokens = model, num_prompt_tokens
        self.with_logprobs, self.with_usage = with_logprobs, with_usage
        self.id = uuid.uuid4().hex
        self.created = int(time.time())


class Reply:
    """The answers' events as one endpoint says them."""

    id_prefix: str
    object: str
    chunk_object: str

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    @property
    def id(self) -> str:
        """What the response is called, in feedback too."""
        return f"{self.id_prefix}-{self.frame.id}"

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The response to a request without stream."""
        listed = [self.choice(number, choice) for number, choice in enumerate(self.best(choices))]
        return {**self._opened(self.object), "choices": listed, "usage": self._usage(choices)}

    def best(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        """Those that are given of all that were written."""
        return choices

    def chunk(self, number: int, piece: Choice, start: int = 0) -> dict[str, Any]:
        """One event of a stream: what `piece` adds to choice `number` behind its first `start` characters."""
        usage = {"usage": None} if self.frame.with_usage else {}
        return {**self._opened(self.chunk_object), "choices": [self.delta(number, piece, start)], **usage}

    def opening(self, number: int) -> dict[str, Any] | None:
        """The chunk before a choice's first text, where the endpoint has one."""
        return None

    def opening_text(self, number: int) -> str:
        """What a choice's text begins with before anything is written."""
        return ""

    def first_tokens(self, number: int) -> list[Token]:
        """The prompt's tokens that the model says nothing about."""
        return []

    def usage_chunk(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        """The stream's last chunk, if the client asked for it."""
        if not self.frame.with_usage:
            return None
        return {**self._opened(self.chunk_object), "choices": [], "usage": self._usage(choices)}

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        """A complete answer in the endpoint's words."""
        raise NotImplementedError

    def delta(self, number: int, piece: Choice, start: int) -> dict[str, Any]:
        """A part of an answer in the endpoint's words."""
        raise NotImplementedError

    def _opened(self, kind: str) -> dict[str, Any]:
        frame, name = self.frame, self.frame.model.name
        return {
            "id": self.id,
            "object": kind,
            "created": frame.created,
            "model": name,
            "system_fingerprint": name,
        }

    def _usage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        written = sum(choice.num_tokens for choice in choices)
        read = self.frame.num_prompt_tokens
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            # Of several answers to a prompt the first one's: the others find what it has read.
            "prompt_tokens_details": {"cached_tokens": choices[0].num_cached},
        }


class CompletionReply(Reply):
    """/v1/completions."""

    id_prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, frame: Frame, num_given: int, num_written: int, echoes: Sequence[Echo]) -> None:
        super().__init__(frame)
        self._num_given, self._num_written, self._echoes = num_given, num_written, echoes

    def best(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        if self._num_given == self._num_written:
            return choices
        groups = [choices[start : start + self._num_written] for start in range(0, len(choices), self._num_written)]
        ranked = (sorted(group, key=lambda choice: -choice.likelihood) for group in groups)
        return [choice for group in ranked for choice in group[: self._num_given]]

    def opening(self, number: int) -> dict[str, Any] | None:
        return self.chunk(number, Choice(text=text)) if (text := self.opening_text(number)) else None

    def opening_text(self, number: int) -> str:
        return self._echoes[number // self._num_written].text if self._echoes else ""

    def first_tokens(self, number: int) -> list[Token]:
        first = self._echoes[number // self._num_written].first
        return [first] if first else []

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        return self.delta(number, choice, start=len(self.opening_text(number)))

    def delta(self, number: int, piece: Choice, start: int) -> dict[str, Any]:
        told, start = [*piece.prompt_tokens, *piece.tokens], 0 if piece.prompt_tokens else start
        return {
            "index": number,
            "text": piece.text,
            "logprobs": self._logprobs(told, start) if self.frame.with_logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[Token], start: int) -> dict[str, Any]:
        tokenizer = self.frame.model.tokenizer
        decoder, offsets = StreamDecoder(tokenizer), []
        for token in tokens:
            offsets.append(start)
            start += len(decoder.push(token.id))
        tops = [_by_spelling(tokenizer, token) for token in tokens]
        return {
            "tokens": [_spelling(tokenizer, token.id) for token in tokens],
            "token_logprobs": [None if math.isnan(token.logprob) else token.logprob for token in tokens],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }


class ChatReply(Reply):
    """/v1/chat/completions."""

    id_prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, number: int) -> dict[str, Any]:
        chunk = self.chunk(number, Choice())
        chunk["choices"][0]["delta"] = {"role": "assistant", "content": ""}
        return chunk

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {"index": number, "message": message, **self._ending(choice)}

    def delta(self, number: int, piece: Choice, start: int) -> dict[str, Any]:
        return {"index": number, "delta": {"content": piece.text} if piece.text else {}, **self._ending(piece)}

    def _ending(self, choice: Choice) -> dict[str, Any]:
        content = [self._logprob(token) for token in choice.tokens]
        logprobs = {"content": content, "refusal": None} if self.frame.with_logprobs and content else None
        return {"logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _logprob(self, token: Token) -> dict[str, Any]:
        tokenizer = self.frame.model.tokenizer
        top = [_spelled(tokenizer, other, logprob) for other, logprob in token.top]
        return {**_spelled(tokenizer, token.id, token.logprob), "top_logprobs": top}


def _by_spelling(tokenizer: Tokenizer, token: Token) -> dict[str, float] | None:
    """The alternatives of one place; the first token of a text has none."""
    if math.isnan(token.logprob):
        return None
    return {_spelling(tokenizer, other): logprob for other, logprob in token.top}


def _spelling(tokenizer: Tokenizer, token_id: int) -> str:
    """A token's text; parts of characters are told apart by their bytes, in OpenAI's way."""
    content = tokenizer.token_bytes(token_id)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _spelled(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    """A token with its exact bytes: its text alone may be a part of a character."""
    content = tokenizer.token_bytes(token_id)
    return {"token": content.decode(errors="replace"), "logprob": logprob, "bytes": list(content)}
