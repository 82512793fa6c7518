"""Tokenizers: learned from the training text, or those of existing models."""

from llm_core.tokenizer.byte_level import PRE_TOKENS
from llm_core.tokenizer.errors import TokenizerError
from llm_core.tokenizer.existing import read_existing, tokenizer_digest
from llm_core.tokenizer.tokenizer import (
    CHAT_TEMPLATE,
    END,
    SPECIALS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TURN_END,
    TURN_START,
    StreamDecoder,
    Tokenizer,
    sample_evenly,
)
from llm_core.tokenizer.usage import Usage, measure_usage, usage_rows

__all__ = [
    "CHAT_TEMPLATE",
    "END",
    "PRE_TOKENS",
    "SPECIALS",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "TURN_END",
    "TURN_START",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerError",
    "Usage",
    "measure_usage",
    "read_existing",
    "sample_evenly",
    "tokenizer_digest",
    "usage_rows",
]
