"""The answers of the HTTP API: the engine's events in OpenAI's JSON, whole or as a stream of chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_core.generate import Token
from llm_core.serving.loaded import LoadedModel
from llm_core.tokenizer import StreamDecoder, Tokenizer


@dataclass
class Choice:
    """One answer as far as it is written."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: str | None = None
    num_tokens: int = 0


class Reply:
    """The frame that all chunks of one response share; subclasses add what their endpoint calls a choice."""

    id_prefix: str
    object: str
    chunk_object: str

    def __init__(self, model: LoadedModel, num_prompt_tokens: int, with_logprobs: bool, with_usage: bool) -> None:
        self._model, self._num_prompt_tokens = model, num_prompt_tokens
        self._with_logprobs, self._with_usage = with_logprobs, with_usage
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The response to a request without stream."""
        listed = [self.choice(number, choice) for number, choice in enumerate(choices)]
        return {**self._frame(self.object), "choices": listed, "usage": self._usage(choices)}

    def chunk(self, number: int, piece: Choice, start: int = 0) -> dict[str, Any]:
        """One event of a stream: what `piece` adds to choice `number` behind its first `start` characters."""
        usage = {"usage": None} if self._with_usage else {}
        return {**self._frame(self.chunk_object), "choices": [self.delta(number, piece, start)], **usage}

    def opening(self, number: int) -> dict[str, Any] | None:
        """The chunk before a choice's first text, where the endpoint has one."""
        return None

    def usage_chunk(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        """The stream's last chunk, if the client asked for it."""
        if not self._with_usage:
            return None
        return {**self._frame(self.chunk_object), "choices": [], "usage": self._usage(choices)}

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        """A complete answer in the endpoint's words."""
        raise NotImplementedError

    def delta(self, number: int, piece: Choice, start: int) -> dict[str, Any]:
        """A part of an answer in the endpoint's words."""
        raise NotImplementedError

    def _frame(self, kind: str) -> dict[str, Any]:
        name = self._model.name
        return {"id": self._id, "object": kind, "created": self._created, "model": name, "system_fingerprint": name}

    def _usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        written = sum(choice.num_tokens for choice in choices)
        read = self._num_prompt_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class CompletionReply(Reply):
    """/v1/completions."""

    id_prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        return self.delta(number, choice, start=0)

    def delta(self, number: int, piece: Choice, start: int) -> dict[str, Any]:
        return {
            "index": number,
            "text": piece.text,
            "logprobs": self._logprobs(piece.tokens, start) if self._with_logprobs else None,
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[Token], start: int) -> dict[str, Any]:
        tokenizer = self._model.tokenizer
        decoder, offsets = StreamDecoder(tokenizer), []
        for token in tokens:
            offsets.append(start)
            start += len(decoder.push(token.id))
        tops = [{_spelling(tokenizer, other): logprob for other, logprob in token.top} for token in tokens]
        return {
            "tokens": [_spelling(tokenizer, token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
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
        logprobs = {"content": content, "refusal": None} if self._with_logprobs and content else None
        return {"logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _logprob(self, token: Token) -> dict[str, Any]:
        tokenizer = self._model.tokenizer
        top = [_spelled(tokenizer, other, logprob) for other, logprob in token.top]
        return {**_spelled(tokenizer, token.id, token.logprob), "top_logprobs": top}


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
