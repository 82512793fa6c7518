"""What happened in an engine since its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """Sums over one model version's answers; only its runner's thread writes them."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that were in memory already."""
    written_tokens: int = 0
    preemptions: int = 0
    """Times that an answer had to give its blocks back."""
    steps: int = 0
