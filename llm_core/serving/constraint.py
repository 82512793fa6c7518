"""Answers that must have a form: JSON, or JSON of a schema. llguidance says which tokens may come next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from llm_core.tokenizer import Tokenizer

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
# No white space where none is needed: small models like to fill an answer with it.
COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class ConstraintError(ValueError):
    """A schema that cannot be followed; the message says why."""


class Constraint:
    """A form that answers must have, for one model's vocabulary; shared by the answers of a request."""

    def __init__(self, schema: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int) -> None:
        self._vocabulary = _vocabulary(tokenizer, vocab_size)
        self._grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=COMPACT)
        if problem := LLMatcher.validate_grammar(self._grammar, self._vocabulary):
            raise ConstraintError(f"the schema cannot be followed: {problem[:500]}")

    def begin(self) -> Following:
        """The form at the beginning of an answer."""
        return Following(LLMatcher(self._vocabulary, self._grammar, log_level=0))


class Following:
    """An answer in the middle of its form."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> np.ndarray:
        """Which tokens (V) may come next; the end of the text where the form is complete."""
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) > 0
        if self._matcher.is_error():
            raise ConstraintError(f"the form cannot be followed any further: {self._matcher.get_error()[:500]}")
        return allowed

    def note(self, token_id: int) -> None:
        """Take the token that was written."""
        self._matcher.consume_token(token_id)


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> LLTokenizer:
    """A tokenizer's ids as llguidance reads them; made once, as it takes a moment."""
    return LLTokenizer(TokenizerWrapper(_Spelled(tokenizer)), n_vocab=vocab_size)


class _Spelled:
    """What llguidance's wrapper asks a tokenizer for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        names = {token_id: name for name, token_id in tokenizer.special_ids.items()}
        self.eos_token_id, self.bos_token_id = tokenizer.end_id, None
        self.special_token_ids = sorted(names)
        ids = range(tokenizer.vocab_size)
        self.tokens = [names[i].encode() if i in names else tokenizer.token_bytes(i) for i in ids]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode(errors="replace"))
