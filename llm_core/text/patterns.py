"""Regular expressions that never look back, so that no input makes them slow or large."""

from __future__ import annotations

_AT_ONCE = 256


def repeated(pattern: str, at_least: int = 0) -> str:
    """A regular expression for `pattern` as often as it comes, `at_least` 0 or 1 times, that gives nothing back.

    Python has possessive repeats for this, but up to 3.11.4 matches those of groups wrongly (CPython issue 106052). One
    atomic group around a greedy repeat would be sound, but keeps 60 bytes for each repetition until it ends; the inner
    group forgets its own.
    """
    return rf"(?>(?:(?>(?:{pattern}){{1,{_AT_ONCE}}})){'+' if at_least else '*'})"
