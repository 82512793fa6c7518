"""One JSON value becomes the text of a record."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_core.config import Collect
from llm_core.text.document import Rejection
from llm_core.text.patterns import repeated
from llm_core.text.readers.decoding import decode

MAX_DEPTH = 512
"""Deeper values are not parsed: parsers recurse."""
# Never backtracks and always matches, so that no input makes it slow.
_STRING = re.compile(('"' + repeated(r"[^\"\\]++|\\.") + '"?').encode(), re.DOTALL)
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


class _DuplicateKeysError(ValueError):
    """An object names a key twice."""


def json_text(raw: bytes, cfg: Collect, start: int) -> str | Rejection:
    """The text of the JSON value at byte `start`: reasons undecodable, too_deep, duplicate_keys, not_json, no_text.

    RFC 8259 without Python's liberties: no NaN or Infinity, and no lone surrogates in the text.
    """
    if (depth := _depth(raw)) > MAX_DEPTH:
        return Rejection("too_deep", f"nested {depth} deep, {MAX_DEPTH} allowed")
    text = decode(raw, cfg.encoding, start=start)
    if isinstance(text, Rejection):
        return text
    try:
        found = text_of(_DECODER.decode(text), cfg.text_keys)
        # A lone surrogate can only come from an escape.
        if isinstance(found, str) and b"\\u" in raw:
            found.encode()
    except _DuplicateKeysError:
        return Rejection("duplicate_keys", "an object has the same key twice; which value counts is anybody's guess")
    except RecursionError:
        return Rejection("too_deep", f"nested {depth} deep, more than the parser has stack for")
    except json.JSONDecodeError as problem:
        return Rejection("not_json", f"{problem.msg} at character {problem.pos}")
    except UnicodeEncodeError as problem:
        return Rejection("not_json", f"half a surrogate pair at character {problem.start} of the text")
    except ValueError as problem:
        return Rejection("not_json", str(problem))
    return found


def text_of(value: object, keys: Sequence[str]) -> str | Rejection:
    """The value itself if it is text, or what its first present key of `keys` holds: text, or lines of text."""
    if isinstance(value, dict):
        for key in keys:
            if (member := value.get(key)) is not None:
                break
        value = member
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
    if isinstance(value, str):
        return value
    return Rejection("no_text", f"no text in any of {', '.join(keys)}; name the right key in collect.text_keys")


def _depth(raw: bytes) -> int:
    bound = raw.count(b"[") + raw.count(b"{")
    if bound <= MAX_DEPTH:
        return bound
    steps = _STEPS[np.frombuffer(_STRING.sub(b"", raw), dtype=np.uint8)]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateKeysError
    return members


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
