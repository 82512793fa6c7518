"""Bulk encoding through tiktoken, with the ids that `tokenizers` gives and in a fraction of its time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as RustTokenizer

from llm_core.tokenizer.blanks import has_long_blank
from llm_core.tokenizer.byte_level import (
    GPT2_PRE_TOKENS,
    GPT4_PRE_TOKENS,
    NUM_BYTES,
    PRE_TOKENS,
    Ranks,
    byte_letters,
    spell,
    surrogate_error,
)

if TYPE_CHECKING:
    from tiktoken import Encoding

Ids = npt.NDArray[np.unsignedinteger]
Dtype = type[np.uint16] | type[np.uint32]
# Cuts that the two libraries' regular expressions understand alike, found by comparing them on every code point.
ALIKE = {PRE_TOKENS, GPT2_PRE_TOKENS, GPT4_PRE_TOKENS, GPT4_PRE_TOKENS.replace("{1,3}", "")}  # the last is Qwen 2's
# What the settings of a model that plainly merges bytes are; missing ones have these values too.
PLAIN = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}


class BulkEncoder:
    """Encodes texts as `tokenizers` does, where its merges can be said as ranks.

    tiktoken always merges the neighbours whose bytes together have the lowest rank, and takes a whole pre-token that is
    a token as it is. That is BPE by merges where no two merges give the same bytes and each token encodes to itself:
    whatever becomes a token's bytes then does so by that token's own merge, which holds for every learned vocabulary.
    """

    def __init__(self, encoding: Encoding, ids: Ids) -> None:
        self._encoding = encoding
        self._ids = ids

    @classmethod
    def of(cls, rust: RustTokenizer, dtype: Dtype = np.uint32) -> BulkEncoder | None:
        """The encoder with a tokenizer's ids; none where it needs more than ranks and a cut known to be alike."""
        from tiktoken import Encoding

        settings = json.loads(rust.to_str())
        pattern, ranks = _pattern(settings), _ranks(settings["model"])
        if pattern is None or ranks is None:
            return None
        spelled = [spell(token) for token in ranks]
        if not _each_encodes_to_itself(settings, spelled):
            return None
        vocabulary = settings["model"]["vocab"]
        ids: Ids = np.array([vocabulary[token] for token in spelled], dtype)
        return cls(Encoding("documents", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={}), ids)

    def encode(self, text: str) -> Ids | None:
        """Ids of a text; none for one with a run of white space that its regular expressions cannot take."""
        if has_long_blank(text):
            return None
        try:
            ranks = self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError as problem:
            raise surrogate_error(problem) from None
        # tiktoken has no merge order apart from ids, so it gets ranks, and this puts the ids in their place.
        return self._ids[ranks]


def _pattern(settings: Mapping[str, Any]) -> str | None:
    """The regular expression of a tokenizer that cuts by one and turns the bytes into letters, and does no more."""
    if settings["normalizer"] or not all(token["special"] for token in settings["added_tokens"]):
        return None
    step = settings["pre_tokenizer"] or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if len(steps) == 1 and steps[0]["use_regex"]:
        return GPT2_PRE_TOKENS
    if len(steps) != 2 or steps[1]["use_regex"]:
        return None
    cut = steps[0]
    is_plain = cut.get("type") == "Split" and cut["behavior"] == "Isolated" and not cut["invert"]
    pattern = cut["pattern"].get("Regex") if is_plain else None
    return pattern if pattern in ALIKE else None


def _ranks(model: Mapping[str, Any]) -> Ranks | None:
    """The bytes and then the merges in their order; none where two merges give the same, or a byte has no token."""
    if any(model.get(name) not in values for name, values in PLAIN.items()):
        return None
    letters, merged = byte_letters(), [left + right for left, right in model["merges"]]
    if not set().union(*merged) <= letters.keys() <= model["vocab"].keys():
        return None
    ranks = {bytes([byte]): byte for byte in range(NUM_BYTES)}
    for token in merged:
        ranks.setdefault(bytes(letters[letter] for letter in token), len(ranks))
    return ranks if len(ranks) == NUM_BYTES + len(merged) else None


def _each_encodes_to_itself(settings: Mapping[str, Any], spelled: list[str]) -> bool:
    """Whether merging alone, without looking whole pre-tokens up, makes each of these tokens from its bytes.

    With `ignore_merges` any entry is looked up, so then there may be none beside them.
    """
    model = settings["model"]
    specials = {token["content"] for token in settings["added_tokens"]}
    if model.get("ignore_merges") and model["vocab"].keys() - specials - set(spelled):
        return False
    merging = RustTokenizer.from_str(json.dumps({**settings, "model": {**model, "ignore_merges": False}})).model
    return all(len(merging.tokenize(token)) == 1 for token in spelled)
