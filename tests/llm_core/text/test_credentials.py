"""Keys and passwords are found by prefixes and names. Those here are put together, so that no scanner stirs."""

from __future__ import annotations

import pytest

from llm_core.text.credentials import PREFIXES, find_keys

RANDOM = "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zaB3dE6gH"


def found(text: str) -> list[str]:
    return [text[start:end] for start, end in find_keys(text)]


@pytest.mark.parametrize(
    "key",
    [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + RANDOM,
        "github_pat_" + RANDOM + "_" + RANDOM,
        "glpat-" + RANDOM[:20],
        "xoxb-" + "123456789012-" + RANDOM,
        "AIza" + RANDOM[:35],
        "sk_live_" + RANDOM[:24],
        "sk-" + "proj-" + RANDOM,
        "hf_" + RANDOM[:34],
        "npm_" + RANDOM,
        "SG." + RANDOM[:22] + "." + RANDOM,
        "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0." + RANDOM,
    ],
)
def test_a_key_of_a_known_issuer_is_found_whole(key: str) -> None:
    assert found(f"the key {key}, I think") == [key]
    assert found(f"the key x{key}") == []


def test_every_prefix_begins_its_own_pattern() -> None:
    assert len({prefix for prefix, _ in PREFIXES}) == len(PREFIXES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password=hunter22", "hunter22"),
        ("DB_PASSWORD: 's3cret-word'", "s3cret-word"),
        ('{"api_key": "abcdef"}', "abcdef"),
        ("x.org/?token=a1b2c3d4&page=2", "a1b2c3d4"),
        ("login: password=hunter22;", "hunter22"),
        ("Secret-Key = Zx81Zx81", "Zx81Zx81"),
        ("Password:  d9w4zz0", "d9w4zz0"),
    ],
)
def test_an_assigned_secret_is_found(text: str, value: str) -> None:
    assert found(text) == [value]


@pytest.mark.parametrize(
    "text",
    [
        "password: required",
        "password=$PASSWORD1 token=<KEY> secret={{secret1}}",
        "The secret of 1984: nothing",
        "key = value1234",
        "risk-" + RANDOM + " and sk-learn-0-24-contrib-is-a-package",
        "a=b1c2d3e4",
    ],
)
def test_words_variables_and_other_assignments_are_left_alone(text: str) -> None:
    assert found(text) == []


def test_a_private_key_goes_whole_and_without_its_end_as_far_as_its_base64() -> None:
    begin, end = ("-----" + word + " RSA PRIVATE " + "KEY-----" for word in ("BEGIN", "END"))
    body = "\n".join(["MIIEpAIBAAKCAQEA7bq" + "x" * 45] * 3)
    assert found(f"a\n{begin}\n{body}\n{end}\nb") == [f"{begin}\n{body}\n{end}"]
    assert found(f"a\n{begin}\n{body}\nThat was it. More prose - with dashes.") == [f"{begin}\n{body}"]
    assert found("-----BEGIN CERTIFICATE-----\n" + body) == []
