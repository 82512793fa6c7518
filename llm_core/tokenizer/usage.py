"""How well a vocabulary fits texts: bytes a token, tokens a word, and how much of it they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from llm_core.tokenizer.bulk import Ids

ALL, UNKNOWN = "all", "unknown"


class Usage:
    """What was counted over the texts of one language."""

    def __init__(self, vocab_size: int) -> None:
        self.num_documents = self.num_bytes = self.num_words = self.num_tokens = 0
        self._seen = np.zeros(vocab_size, np.bool_)

    def add(self, text: str, num_words: int, ids: Ids) -> None:
        """Count one text and its ids."""
        self.num_documents += 1
        self.num_bytes += len(text.encode())
        self.num_words += num_words
        self.num_tokens += len(ids)
        self._seen[ids] = True

    def figures(self) -> dict[str, int | float]:
        """Sums, bytes per token, fertility (tokens per word, Rust et al. 2021) and the share of ids that occur."""
        return {
            "documents": self.num_documents,
            "bytes": self.num_bytes,
            "words": self.num_words,
            "tokens": self.num_tokens,
            "bytes_per_token": round(self.num_bytes / max(self.num_tokens, 1), 4),
            "fertility": round(self.num_tokens / max(self.num_words, 1), 4),
            "vocabulary_use": round(float(self._seen.mean()), 4),
        }


def measure_usage(texts: Iterable[tuple[str, str, int, Ids]], vocab_size: int) -> Mapping[str, Usage]:
    """Usage by language, all of them first and then the largest; texts come as (language, text, num_words, ids)."""
    usage = {ALL: Usage(vocab_size)}
    for language, text, num_words, ids in texts:
        for name in (ALL, language or UNKNOWN):
            usage.setdefault(name, Usage(vocab_size)).add(text, num_words, ids)
    return dict(sorted(usage.items(), key=lambda entry: (entry[0] != ALL, -entry[1].num_bytes, entry[0])))


def usage_rows(usage: Mapping[str, Usage]) -> list[dict[str, str | int | float]]:
    """The figures of each language with its name before them."""
    return [{"language": language, **found.figures()} for language, found in usage.items()]
