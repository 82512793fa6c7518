"""Bulk encoding gives the ids of `tokenizers` for any text, or leaves the text to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from llm_core.tokenizer import Tokenizer, TokenizerError, read_existing
from llm_core.tokenizer.blanks import LONG, has_long_blank, shorten_blanks
from llm_core.tokenizer.bulk import ALIKE, BulkEncoder
from llm_core.tokenizer.byte_level import PRE_TOKENS, byte_letters, from_ranks, learn_ranks
from tests.llm_core.tokenizer.texts import FRAGMENTS, HOSTILE, speeches

any_text = st.lists(st.characters(exclude_categories=["Cs"]) | st.sampled_from(FRAGMENTS), max_size=80).map("".join)


@pytest.fixture(scope="module")
def cuts() -> list[Tokenizer]:
    """A vocabulary for each cut that is known to be alike."""
    ranks = learn_ranks([*speeches(1), *HOSTILE], 800)
    return [Tokenizer.adopt(from_ranks(ranks, pattern)) for pattern in sorted(ALIKE)]


def in_bulk(tokenizer: Tokenizer, text: str) -> list[int]:
    encoder = BulkEncoder.of(tokenizer._saved)
    assert encoder is not None
    ids = encoder.encode(text)
    assert ids is not None
    return ids.tolist()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text)
def test_ids_are_those_of_tokenizers(learned: Tokenizer, text: str) -> None:
    assert learned._bulk is not None
    assert learned.encode_documents([text])[0].tolist() == learned.encode(text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text)
def test_ids_are_those_of_tokenizers_with_the_cuts_of_other_models(cuts: list[Tokenizer], text: str) -> None:
    for tokenizer in cuts:
        assert tokenizer._bulk is not None
        assert tokenizer.encode_documents([text])[0].tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("text", [*HOSTILE, *speeches(2)], ids=range(len(HOSTILE) + 2))
def test_hostile_and_real_texts_get_the_same_ids(learned: Tokenizer, text: str) -> None:
    assert learned.encode_documents([text])[0].tolist() == learned.encode(text)


@pytest.mark.parametrize("unit", [" ", "a", "\n", " \n", "!", "1", "中", "🙂", "\u00a0", "ab", "e\u0301", "\t "])
def test_long_runs_get_the_same_ids_in_bounded_time(learned: Tokenizer, unit: str) -> None:
    text = "x" + unit * (150_000 // len(unit)) + "y"  # a merge loop in quadratic time would take hours
    assert learned.encode_documents([text])[0].tolist() == learned.encode(text)


def test_runs_that_overflow_the_stack_are_left_to_tokenizers(learned: Tokenizer) -> None:
    text = "a" + " " * 1_200_000 + "b"
    assert learned.decode(learned.encode_documents([text])[0]) == text


@pytest.mark.parametrize("before", [0, 1, LONG // 2, LONG - 1, LONG, 3 * LONG + 7])
def test_a_long_blank_is_found_wherever_it_begins(before: int) -> None:
    assert has_long_blank("x" * before + "\u3000" * LONG + "y")
    assert not has_long_blank("x" * before + " " * (LONG - 1) + "y" + " " * (LONG - 1))
    assert shorten_blanks("x" * before + " " * LONG + "y") == "x" * before + " y"


def test_the_two_libraries_agree_on_every_code_point() -> None:
    from tiktoken import Encoding

    # All planes with assigned characters, and the edges of the others.
    planes = [range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000), range(0x10FF00, 0x110000)]
    everything = "".join(chr(code) for codes in planes for code in codes)
    ranks = {bytes([byte]): byte for byte in range(256)}
    for pattern in (r"\p{L}", r"\p{N}", r"\s", r"(?i:[sdmt]|l|v|r|e)"):
        # Both give the matches only: tiktoken skips what does not match, tokenizers removes it.
        encoding = Encoding("matches", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        matched = encoding.encode_to_numpy(everything, disallowed_special=()).astype(np.uint8).tobytes().decode()
        split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), behavior="removed", invert=True)
        assert matched == "".join(piece for piece, _ in split.pre_tokenize_str(everything)), pattern


def test_documents_that_spell_control_tokens_get_no_control_ids(learned: Tokenizer) -> None:
    controls = set(learned.special_ids.values())
    for ids in learned.encode_documents(HOSTILE):
        assert controls.isdisjoint(ids.tolist())


def test_arrays_are_as_small_as_the_vocabulary_allows(learned: Tokenizer) -> None:
    assert {ids.dtype for ids in learned.encode_documents(["", "text", "x" + " " * LONG])} == {np.dtype(np.uint16)}
    large = json.loads(learned._saved.to_str())
    large["model"]["vocab"] |= {f"reserved{number}": number for number in range(learned.vocab_size, 2**16 + 1)}
    wide = Tokenizer(RustTokenizer.from_str(json.dumps(large)))
    assert {ids.dtype for ids in wide.encode_documents(["", "text", "x" + " " * LONG])} == {np.dtype(np.uint32)}
    assert wide.encode_documents(["some text"])[0].tolist() == learned.encode("some text")


def test_a_lone_surrogate_is_refused_by_place(learned: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="character 2 is a lone surrogate"):
        learned.encode_documents(["fine", "ab\ud800"])


def merging(*merges: str, ignore_merges: bool = False) -> RustTokenizer:
    """Bytes, and these merges as in ``a+b``."""
    pairs = [tuple(merge.split("+")) for merge in merges]
    tokens = dict.fromkeys(
        [*sorted(byte_letters()), *(part for left, right in pairs for part in (left, right, left + right))]
    )
    vocabulary = {token: place for place, token in enumerate(tokens)}
    rust = RustTokenizer(models.BPE(vocabulary, pairs, ignore_merges=ignore_merges))  # type: ignore[arg-type]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"), byte_level])
    return rust


def test_merges_in_the_order_of_ids_or_not_become_ranks() -> None:
    rust = merging("a+b", "c+d", "ab+cd")
    shuffled = json.loads(rust.to_str())
    for token, token_id in {"ab": 258, "cd": 256, "abcd": 257}.items():
        shuffled["model"]["vocab"][token] = token_id
    for made in (rust, RustTokenizer.from_str(json.dumps(shuffled))):
        for text in ("abcd", "aabcdd", "cdab", "abab cd"):
            encoder = BulkEncoder.of(made)
            assert encoder is not None
            ids = encoder.encode(text)
            assert ids is not None and ids.tolist() == made.encode(text).ids


BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True}
UNSUITABLE: dict[str, dict[str, Any]] = {
    "a normalizer": {"normalizer": {"type": "NFC"}},
    "an ordinary added token": {
        "added_tokens": [
            {"id": 300, "content": "word", "special": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        ]
    },
    "another cut": {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True, "use_regex": True}},
    "a cut that may differ": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": r"\w+|\W+"}, "behavior": "Isolated", "invert": False},
                BYTE_LEVEL | {"add_prefix_space": False, "use_regex": False},
            ],
        }
    },
    "no cuts": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
    "no pre-tokenizer": {"pre_tokenizer": None},
    "bytes uncut": {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": False, "use_regex": False}},
}


@pytest.mark.parametrize("change", UNSUITABLE.values(), ids=UNSUITABLE.keys())
def test_what_ranks_cannot_say_is_left_to_tokenizers(change: dict[str, Any]) -> None:
    settings = json.loads(merging("a+b").to_str()) | change
    assert BulkEncoder.of(RustTokenizer.from_str(json.dumps(settings))) is None


@pytest.mark.parametrize(
    "rust",
    [
        merging("a+b", "b+c", "ab+c", "a+bc"),  # two merges give abc
        merging("b+c", "a+b", "ab+c"),  # abc never becomes ab+c, but tiktoken would look it up
        merging("b+c", "a+b", "ab+c", ignore_merges=True),
        merging("▁+a"),
    ],
    ids=[
        "two merges give the same bytes",
        "a token that its bytes do not become",
        "the same, looked up",
        "letters of no byte",
    ],
)
def test_merges_that_are_no_ranks_are_left_to_tokenizers(rust: RustTokenizer) -> None:
    tokenizer = Tokenizer.adopt(rust)
    assert tokenizer._bulk is None
    assert tokenizer.encode_documents(["xabc"])[0].tolist() == rust.encode("xabc").ids


def test_gpt2s_own_form_of_its_cut_is_known(tmp_path: Path) -> None:
    settings = json.loads(merging("a+b", "ab+ab").to_str())
    settings["pre_tokenizer"] = settings["decoder"] = BYTE_LEVEL | {"add_prefix_space": False, "use_regex": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = read_existing(tmp_path)
    assert tokenizer._bulk is not None
    for text in HOSTILE:
        assert tokenizer.encode_documents([text])[0].tolist() == tokenizer.encode(text)
