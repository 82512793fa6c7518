"""Text to ids and back with the tokenizer.json of a model's folder, of whatever kind: BPE, WordPiece or unigram."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import DecodeStream

from llm_core.tokenizer import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG, TokenizerError
from llm_core.tokenizer.byte_level import encodable
from llm_core.tokenizer.tokenizer import read_rust

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")


class Codec:
    """The tokenizer of a folder as its model uses it, with the special tokens that it puts around a text.

    A text that spells a special token is plain text, unless `reads_specials`.
    """

    def __init__(self, folder: Path, reads_specials: bool = False) -> None:
        self._folder = folder
        self.rust = read_rust(folder / TOKENIZER)
        self.rust.no_truncation()
        self.rust.no_padding()
        self.rust.encode_special_tokens = not reads_specials

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Ids, offsets and kinds of a text or a pair of texts, special tokens around them.

        Raises TokenizerError for a lone surrogate, which has no UTF-8 form.
        """
        return self.rust.encode(encodable(text), None if pair is None else encodable(pair))

    def plain(self, text: str) -> Encoding:
        """Ids and offsets of a text with nothing around it."""
        return self.rust.encode(encodable(text), add_special_tokens=False)

    def copied(self) -> RustTokenizer:
        """The tokenizer again, for who wants to change its settings."""
        copy = RustTokenizer.from_str(self.rust.to_str())
        copy.encode_special_tokens = self.rust.encode_special_tokens
        return copy

    def prompt(self, text: str) -> list[int]:
        """Ids of a text that is to be continued.

        Tokenizers of ours put nothing in front of a text, but their models learned every text behind the end-of-text
        id.
        """
        ids: list[int] = self.encode(text).ids
        is_ours = self._settings.get("chat_template") == CHAT_TEMPLATE
        end = self.special_id("eos_token") if is_ours else None
        return ids if end is None else [end, *ids]

    def decode(self, ids: Sequence[int], skip_specials: bool = True) -> str:
        """The text of ids."""
        text: str = self.rust.decode(list(ids), skip_special_tokens=skip_specials)
        return text

    def special_id(self, key: str) -> int | None:
        """Id of the token that ``tokenizer_config.json`` gives a role, such as mask_token."""
        token = self._settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        found: int | None = self.rust.token_to_id(token) if isinstance(token, str) else None
        return found

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return 1 + max(self.rust.get_vocab().values())

    @cached_property
    def longest_token(self) -> int:
        """Letters of the longest token; of byte-level vocabularies a letter stands for a byte."""
        return max(map(len, self.rust.get_vocab()))

    @property
    def chat_template(self) -> str | None:
        """The template that the folder has for conversations."""
        found = self._settings.get("chat_template")
        return found if isinstance(found, str) else None

    @property
    def specials(self) -> dict[str, int]:
        """Ids of all special tokens, by their text."""
        added = self.rust.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in added.items() if token.special}

    @property
    def roles(self) -> Mapping[str, int]:
        """Ids of the tokens that have a role, by its name."""
        found = {role: self.special_id(role) for role in ROLES}
        return {role: token_id for role, token_id in found.items() if token_id is not None}

    @cached_property
    def _settings(self) -> dict[str, Any]:
        path = self._folder / TOKENIZER_CONFIG
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as problem:
            raise TokenizerError(f"{path}: not JSON ({problem}); fetch or make it again") from None
        return settings if isinstance(settings, dict) else {}


class Continuation:
    """The text that new ids add to a prompt, piece by piece."""

    def __init__(self, codec: Codec, prompt: Sequence[int] = ()) -> None:
        self._codec = codec
        self._prompt, self._ids, self._shown = list(prompt), list[int](), 0
        self._stream = DecodeStream(self._prompt, skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that this id completes, often empty."""
        self._ids.append(token_id)
        text = self._stream.step(self._codec.rust, token_id) or ""
        self._shown += len(text)
        return text

    def finish(self) -> str:
        """What is left: U+FFFD for a character that never became complete."""
        if not self._ids:
            return ""
        before = len(self._codec.decode(self._prompt))
        return self._codec.decode([*self._prompt, *self._ids])[before + self._shown :]


def texts_of(inputs: str | Iterable[str]) -> list[str]:
    """One text or several as a list."""
    return [inputs] if isinstance(inputs, str) else list(inputs)
