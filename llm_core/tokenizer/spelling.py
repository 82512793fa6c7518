"""How vocabularies write the bytes of their tokens, and how a text is kept from spelling a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from llm_core.tokenizer.byte_level import byte_letters
from llm_core.tokenizer.errors import TokenizerError

# SentencePiece's letter for a space, and its entries for single bytes.
SPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_spellings(rust: RustTokenizer) -> list[bytes]:
    """The bytes of every id in order: none for control tokens, and for ids that the vocabulary leaves out."""
    settings = json.loads(rust.to_str())
    added = {token["id"]: b"" if token["special"] else token["content"].encode() for token in settings["added_tokens"]}
    read = _reader(settings)
    vocabulary = rust.get_vocab()
    spellings = [b""] * (1 + max(vocabulary.values()))
    for token, token_id in vocabulary.items():
        spellings[token_id] = added[token_id] if token_id in added else read(token)
    return spellings


def without_controls(rust: RustTokenizer) -> RustTokenizer:
    """A tokenizer with the same ids that no text gets a control id out of.

    Unigram models (SentencePiece's) list control tokens among their pieces, so that a text which spells one would get
    its id. There a space is put before such an entry: models see spaces as another letter, so nothing can match it.
    Raises TokenizerError where that does not help.
    """
    settings = json.loads(rust.to_str())
    controls = _controls(settings)
    if _spelled(rust, controls) and settings["model"]["type"] == "Unigram":
        rust = RustTokenizer.from_str(json.dumps(_renamed(settings, controls)))
        rust.encode_special_tokens = True
    if names := _spelled(rust, controls):
        raise TokenizerError(f"a text that spells {', '.join(names)} would get control ids; take another tokenizer")
    return rust


def _controls(settings: Mapping[str, Any]) -> dict[str, int]:
    """Control tokens and their ids. The one for unknown characters is no control: texts are meant to get it."""
    model = settings["model"]
    unknown = model.get("unk_token")
    if model["type"] == "Unigram" and model["unk_id"] is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    tokens = settings["added_tokens"]
    return {token["content"]: token["id"] for token in tokens if token["special"] and token["content"] != unknown}


def _spelled(rust: RustTokenizer, controls: Mapping[str, int]) -> list[str]:
    """Those that a text gets the ids of by spelling them."""
    ids = set(controls.values())
    found = {name: rust.encode(f"{name} a{name}", add_special_tokens=False).ids for name in controls}
    return [name for name, encoded in found.items() if not ids.isdisjoint(encoded)]


def _renamed(settings: dict[str, Any], controls: Mapping[str, int]) -> dict[str, Any]:
    def rename(name: str) -> str:
        return f" {name}" if name in controls else name

    vocabulary = [[rename(piece), score] for piece, score in settings["model"]["vocab"]]
    added = [{**token, "content": rename(token["content"])} for token in settings["added_tokens"]]
    model = {**settings["model"], "vocab": vocabulary}
    return {**settings, "model": model, "added_tokens": added, "post_processor": None}


def _reader(settings: Mapping[str, Any]) -> Callable[[str], bytes]:
    decoder = settings["decoder"] or {}
    steps = {step["type"]: step for step in decoder.get("decoders", [decoder] if decoder else [])}
    if "ByteLevel" in steps:
        return _letter_bytes
    if "WordPiece" in steps:
        prefix = steps["WordPiece"]["prefix"]
        return lambda token: (token.removeprefix(prefix) if token.startswith(prefix) else f" {token}").encode()
    if "Metaspace" in steps or steps.get("Replace", {}).get("pattern") == {"String": SPACE}:
        return _piece_bytes
    known = "ByteLevel, Metaspace, WordPiece"
    raise TokenizerError(f"decoder {'+'.join(steps) or 'none'}: how it spells bytes is unknown; known are {known}")


def _letter_bytes(token: str) -> bytes:
    letters = byte_letters()
    # An entry with other letters stands for itself, as in `tokenizers`' own decoder.
    return bytes(map(letters.__getitem__, token)) if letters.keys() >= set(token) else token.encode()


def _piece_bytes(piece: str) -> bytes:
    found = BYTE.fullmatch(piece)
    return bytes([int(found[1], 16)]) if found else piece.replace(SPACE, " ").encode()
