"""Regular expressions mean the same on every Python 3.11 that the project supports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    str(path.relative_to(ROOT)) for package in ("flows", "tasks", "llm_core") for path in (ROOT / package).rglob("*.py")
)
# Up to Python 3.11.4 a possessive repeat of a group matched wrongly (CPython issue 106052); an atomic group around
# the greedy repeat, (?>(?:...)*), means the same and is sound. Single characters and classes were never touched.
POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{\d*,?\d*\})\+")


@pytest.mark.parametrize("path", SOURCES)
def test_no_pattern_repeats_a_group_possessively(path: str) -> None:
    found = [line for line in (ROOT / path).read_text().splitlines() if POSSESSIVE_GROUP.search(line)]
    assert not found, f"{path}: write (?>(?:...)*) for (?:...)*+: {found}"


@pytest.mark.parametrize("pattern", ["(?:a|b)*+", "(?:a){0,20}+", "(?:a)++", "(?:a)?+"])
def test_each_possessive_repeat_is_found(pattern: str) -> None:
    assert POSSESSIVE_GROUP.search(pattern)
    assert not POSSESSIVE_GROUP.search(f"(?>{pattern[:-1]})[a-z]*+")
