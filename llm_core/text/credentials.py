"""Keys, tokens and passwords, by the prefixes that their issuers publish and by the names they are assigned to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from llm_core.text.identifiers import Span

# A prefix that a fast search finds, and what follows it in a whole key.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("AKIA", "[A-Z0-9]{16}"),
    ("ASIA", "[A-Z0-9]{16}"),
    ("ghp_", "[A-Za-z0-9]{36,251}"),
    ("gho_", "[A-Za-z0-9]{36,251}"),
    ("ghu_", "[A-Za-z0-9]{36,251}"),
    ("ghs_", "[A-Za-z0-9]{36,251}"),
    ("ghr_", "[A-Za-z0-9]{36,251}"),
    ("github_pat_", "[A-Za-z0-9_]{50,251}"),
    ("glpat-", "[A-Za-z0-9_-]{20,64}"),
    ("xox", "[abeoprs]-[A-Za-z0-9-]{10,251}"),
    ("hooks.slack.com/services/", "[A-Za-z0-9/]{20,99}"),
    ("AIza", "[A-Za-z0-9_-]{35}"),
    ("ya29.", "[A-Za-z0-9_-]{20,251}"),
    ("sk_live_", "[A-Za-z0-9]{16,251}"),
    ("sk_test_", "[A-Za-z0-9]{16,251}"),
    ("rk_live_", "[A-Za-z0-9]{16,251}"),
    # OpenAI, Anthropic and those who followed them: random, so it has a digit and a capital.
    ("sk-", "(?=[A-Za-z_-]{0,99}[0-9])(?=[a-z0-9_-]{0,99}[A-Z])[A-Za-z0-9_-]{20,251}"),
    ("hf_", "[A-Za-z0-9]{30,64}"),
    ("npm_", "[A-Za-z0-9]{36}"),
    ("pypi-AgEI", "[A-Za-z0-9_-]{50,251}"),
    ("SG.", "[A-Za-z0-9_-]{16,32}\\.[A-Za-z0-9_-]{16,64}"),
    # JSON Web Tokens (RFC 7519): the base64 of {" begins every one.
    ("eyJ", "[A-Za-z0-9_-]{8,4096}\\.[A-Za-z0-9_-]{8,65536}\\.[A-Za-z0-9_-]{0,4096}"),
)
KEYS = tuple(
    (prefix, re.compile(f"(?<![A-Za-z0-9_-]){re.escape(prefix)}{rest}(?![A-Za-z0-9_])")) for prefix, rest in PREFIXES
)

PEM = "-----BEGIN "
# A private key of RFC 7468; where its end is missing, its lines of base64.
PRIVATE_KEY = re.compile(
    r"-----BEGIN ((?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?:(?:[^-]|-(?!-{4})){1,20000}-----END \1-----|(?:\s{1,4}[A-Za-z0-9+/=]{32,76})*)"
)

# The value is looked ahead at, so that in "login: password=..." the colon does not use it up. Two patterns, since a
# search for one character is ten times faster than for either of two.
VALUE = r"\s{0,3}(?=([\"'])(?P<quoted>[^\"'\s<>{}]{6,200})\1|(?P<bare>[^\s\"',;&|<>(){}\[\]]{6,200}))"
# What a secret's name ends with, so that most colons need no closer look.
NAME_END = r"(?<=[DETYNdetyn\"' ].)"
ASSIGNMENTS = re.compile(":" + NAME_END + VALUE), re.compile("=" + NAME_END + VALUE)
SECRET_NAME = re.compile(
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|(?:api|access|auth|private|secret)[_-]?key)[\"']?\s{0,3}\Z",
    re.IGNORECASE,
)
NAME_LENGTH = 24


def find_keys(text: str) -> Iterator[Span]:
    """Keys of known issuers, JSON Web Tokens, private keys in PEM, and passwords that something says are theirs."""
    has_underscore = "_" in text
    for prefix, pattern in KEYS:
        if (has_underscore or "_" not in prefix) and prefix in text:
            yield from (match.span() for match in pattern.finditer(text))
    if PEM in text:
        yield from (match.span() for match in PRIVATE_KEY.finditer(text))
    yield from _find_assignments(text)


def _find_assignments(text: str) -> Iterator[Span]:
    """The values in ``password = "..."`` and ``api_key: ...``; a bare word must have letters and other characters."""
    for match in chain.from_iterable(pattern.finditer(text) for pattern in ASSIGNMENTS):
        if SECRET_NAME.search(text, max(match.start() - NAME_LENGTH, 0), match.start()):
            group = "quoted" if match["quoted"] else "bare"
            if group == "quoted" or _looks_random(match["bare"]):
                yield match.span(group)


def _looks_random(value: str) -> bool:
    """Neither a word, as in ``password: required``, nor a place where the value is filled in, as in ``$PASSWORD``."""
    has_letter, has_digit = (any(map(test, value)) for test in (str.isalpha, str.isdecimal))
    return has_letter and has_digit and value[0] not in "$%&*/\\"
