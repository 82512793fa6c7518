"""Byte-level BPE: any text to token ids and exactly back.

The files are Hugging Face's, so ``transformers`` loads the same folder; training and encoding run in its Rust library.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIALS = (END, TURN_START, TURN_END)
# GPT-4's cut into contractions, words with the space before them, numbers, punctuation and white space; numbers in
# groups of at most two digits, since a small vocabulary has no room for a thousand groups of three.
PRE_TOKENS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# ChatML, OpenAI's layout of conversations.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TokenizerError(ValueError):
    """A tokenizer folder that cannot be used, or a text that has no UTF-8 form."""


class Tokenizer:
    """Encodes and decodes with one vocabulary.

    Encoding never gives a control id: a document or message that spells a special token is plain text. Whoever composes
    a conversation takes control ids from `special_ids`.
    """

    def __init__(self, rust: RustTokenizer) -> None:
        special_ids = {name: token_id for name in SPECIALS if (token_id := rust.token_to_id(name)) is not None}
        if missing := [name for name in SPECIALS if name not in special_ids]:
            raise TokenizerError(f"the vocabulary has no {', '.join(missing)}; run the tokenizer stage again")
        self.special_ids: Mapping[str, int] = MappingProxyType(special_ids)
        """The control tokens and their ids."""
        # Not part of the saved file, so it is set wherever one is loaded.
        rust.encode_special_tokens = True
        self._rust = rust

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn a vocabulary of at most `vocab_size` entries; small texts give fewer. Equal texts give equal bytes."""
        rust = RustTokenizer(models.BPE())
        rust.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PRE_TOKENS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        rust.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        rust.train_from_iterator(texts, trainer)
        return cls(rust)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read the tokenizer of an artifact's folder; raises TokenizerError when there is none or it is damaged."""
        path = Path(folder) / TOKENIZER
        try:
            content = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise TokenizerError(f"{path}: no tokenizer here; give the folder of a tokenizer or model") from None
        try:
            rust = RustTokenizer.from_str(content)
        except Exception as problem:  # the Rust library raises nothing narrower
            raise TokenizerError(f"{path}: not a tokenizer ({problem}); run the tokenizer stage again") from None
        return cls(rust)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
        (folder / TOKENIZER).write_text(self._rust.to_str(pretty=True) + "\n", encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "pad_token": END,
            "additional_special_tokens": [TURN_START, TURN_END],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        content = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / TOKENIZER_CONFIG).write_text(content, encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self._rust.get_vocab_size()

    @property
    def end_id(self) -> int:
        """The id behind (and, as a beginning, before) every document."""
        return self.special_ids[END]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, never control ids; raises TokenizerError for a lone surrogate, which has no UTF-8 form."""
        ids: list[int] = self._rust.encode(_encodable(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, encoded in parallel."""
        encodings = self._rust.encode_batch_fast([_encodable(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids are silent, and bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of ids; raises TokenizerError for an id outside the vocabulary."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one id, none for a control id."""
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"{token_id} is no token id; the vocabulary has {self.vocab_size}")
        return self._bytes[token_id]

    @cached_property
    def _bytes(self) -> list[bytes]:
        vocabulary = sorted(self._rust.get_vocab().items(), key=lambda entry: entry[1])
        letters = _byte_letters()
        return [b"" if token in SPECIALS else bytes(letters[letter] for letter in token) for token, _ in vocabulary]


class StreamDecoder:
    """Turns ids into text as they come; an incomplete UTF-8 character waits for its other bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes, often empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for a character that never became complete."""
        return self._decoder.decode(b"", final=True)


def sample_evenly(texts: Iterable[str], total_bytes: int, sample_bytes: int) -> Iterator[str]:
    """Cut texts of `total_bytes` in UTF-8 down to about `sample_bytes`: the same share of each one's beginning."""
    share = min(1.0, sample_bytes / max(total_bytes, 1))
    for text in texts:
        yield text if share == 1 else text[: int(len(text) * share)]


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise TokenizerError(f"character {problem.start} is a lone surrogate, which is no text; remove it") from None
    return text


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet of bytes: printable Latin-1 ones stand for themselves, the others for letters from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
