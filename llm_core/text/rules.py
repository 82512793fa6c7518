"""The rules by their names in a recipe; each is a pure function of a document and the clean section."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llm_core.config import Clean
from llm_core.config.data import RuleName
from llm_core.text.c4 import c4
from llm_core.text.document import Document, Rejection
from llm_core.text.filters import (
    limit_repetition,
    limit_symbols,
    normalise_unicode,
    normalise_whitespace,
    require_prose,
    require_words,
    strip_marks,
)
from llm_core.text.fineweb import fineweb
from llm_core.text.gopher import gopher_quality, gopher_repetition
from llm_core.text.language import identify_language
from llm_core.text.markup import drop_boilerplate, strip_markup, strip_punctuation
from llm_core.text.pii import redact_pii
from llm_core.text.toxicity import flag_toxicity

Rule = Callable[[Document, Clean], Document | Rejection]

RULES: Mapping[RuleName, Rule] = {
    "unicode": normalise_unicode,
    "marks": strip_marks,
    "markup": strip_markup,
    "boilerplate": drop_boilerplate,
    "whitespace": normalise_whitespace,
    "punctuation": strip_punctuation,
    "language": identify_language,
    "words": require_words,
    "symbols": limit_symbols,
    "prose": require_prose,
    "repetition": limit_repetition,
    "gopher_quality": gopher_quality,
    "gopher_repetition": gopher_repetition,
    "c4": c4,
    "fineweb": fineweb,
    "toxicity": flag_toxicity,
    "pii": redact_pii,
}


def apply_rules(document: Document, cfg: Clean) -> Document | Rejection:
    """Put a document through the recipe's rules in their order: what is left of it, or why it is rejected."""
    for name in cfg.rules:
        result = RULES[name](document, cfg)
        if isinstance(result, Rejection):
            return result
        document = result
    if not document.text.strip():
        return Rejection("empty", "nothing is left of it")
    return document
