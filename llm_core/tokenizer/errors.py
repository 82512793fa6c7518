"""What goes wrong with tokenizers."""

from __future__ import annotations


class TokenizerError(ValueError):
    """A tokenizer that cannot be used, or a text that has no UTF-8 form."""
