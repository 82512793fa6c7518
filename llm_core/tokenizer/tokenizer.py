"""Any text to token ids and back: byte-level BPE of one's own, or the tokenizer of an existing model.

The files are Hugging Face's, so ``transformers`` loads the same folder. `tokenizers` encodes single texts, tiktoken
documents in bulk.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from llm_core.tokenizer.bulk import BulkEncoder, Dtype, Ids
from llm_core.tokenizer.byte_level import PRE_TOKENS, encodable, from_ranks, learn_ranks
from llm_core.tokenizer.errors import TokenizerError
from llm_core.tokenizer.spelling import token_spellings, without_controls

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
END = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIALS = (END, TURN_START, TURN_END)
# ChatML, OpenAI's layout of conversations.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tokenizer:
    """Encodes and decodes with one vocabulary.

    Encoding never gives a control id: a document or message that spells a special token is plain text. Whoever composes
    a conversation takes control ids from `special_ids`.
    """

    def __init__(self, rust: RustTokenizer, end: str = END) -> None:
        found = {name: rust.token_to_id(end if name == END else name) for name in SPECIALS}
        special_ids = {name: token_id for name, token_id in found.items() if token_id is not None}
        if missing := [name for name in SPECIALS if name not in special_ids]:
            raise TokenizerError(f"the vocabulary has no {', '.join(missing)}; run the tokenizer stage again")
        self.special_ids: Mapping[str, int] = MappingProxyType(special_ids)
        """The control tokens and their ids; END is whatever this vocabulary ends documents with."""
        self._end = end
        self._saved = rust
        # Both belong to a model's use of the tokenizer: documents are neither cut nor filled up.
        rust.no_truncation()
        rust.no_padding()
        # Not part of the saved file, so it is set wherever one is loaded.
        rust.encode_special_tokens = True
        self._rust = without_controls(rust)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn a vocabulary of at most `vocab_size` entries; small texts give fewer. Equal texts give equal bytes."""
        return cls(from_ranks(learn_ranks(texts, vocab_size - len(SPECIALS)), PRE_TOKENS, SPECIALS))

    @classmethod
    def adopt(cls, rust: RustTokenizer, end: str | None = None) -> Tokenizer:
        """Make an existing tokenizer one of ours: control tokens that it has not follow its last id.

        `end` is what it ends texts with, where it has such a token.
        """
        end = end if end is not None and rust.token_to_id(end) is not None else END
        rust.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (end, *SPECIALS[1:])])
        # A vocabulary that leaves ids out can have the one that the library gives a new token: the number of entries.
        counts = Counter(rust.get_vocab().values())
        if twice := [token_id for token_id, count in counts.items() if count > 1]:
            raise TokenizerError(f"id {twice[0]} is taken twice once control tokens are added; number the ids from 0")
        return cls(rust, end)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read the tokenizer of an artifact's folder; raises TokenizerError when there is none or it is damaged."""
        return cls(read_rust(Path(folder) / TOKENIZER), end_token(Path(folder)) or END)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
        (folder / TOKENIZER).write_text(self._saved.to_str(pretty=True) + "\n", encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self._end,
            "eos_token": self._end,
            "pad_token": self._end,
            "additional_special_tokens": [TURN_START, TURN_END],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        content = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / TOKENIZER_CONFIG).write_text(content, encoding="utf-8")

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return 1 + max(self._saved.get_vocab().values())

    @property
    def end_id(self) -> int:
        """The id behind (and, as a beginning, before) every document."""
        return self.special_ids[END]

    def control_id(self, name: str) -> int | None:
        """The id of a control token of any name, such as a mask; None where the vocabulary has none."""
        return self._saved.token_to_id(name)

    @property
    def dtype(self) -> Dtype:
        """The smallest unsigned integers that hold every id."""
        return np.uint16 if self.vocab_size <= 2**16 else np.uint32

    def encode(self, text: str) -> list[int]:
        """Ids of a text, never control ids; raises TokenizerError for a lone surrogate, which has no UTF-8 form."""
        ids: list[int] = self._rust.encode(encodable(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, encoded in parallel."""
        encodings = self._rust.encode_batch_fast([encodable(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_documents(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of several texts as arrays of `dtype`: the same ids as `encode`, several times as fast."""
        return [self._encode_document(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids are silent, and bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of ids; raises TokenizerError for an id outside the vocabulary.

        A SentencePiece model begins every text with a space, which comes back too.
        """
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one id, none for a control id."""
        if not 0 <= token_id < self.vocab_size:
            raise TokenizerError(f"{token_id} is no token id; the vocabulary has {self.vocab_size}")
        return self._bytes[token_id]

    def _encode_document(self, text: str) -> Ids:
        ids = self._bulk.encode(text) if self._bulk else None
        return np.array(self.encode(text), self.dtype) if ids is None else ids

    @cached_property
    def _bulk(self) -> BulkEncoder | None:
        return BulkEncoder.of(self._saved, self.dtype)

    @cached_property
    def _bytes(self) -> list[bytes]:
        return token_spellings(self._saved)


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


def read_rust(path: Path) -> RustTokenizer:
    """Read a ``tokenizer.json``; raises TokenizerError when there is none or it is damaged."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TokenizerError(f"{path}: no tokenizer here; give the folder of a tokenizer or model") from None
    except UnicodeDecodeError as problem:
        raise TokenizerError(f"{path}: not a tokenizer ({problem}); fetch or make it again") from None
    try:
        return RustTokenizer.from_str(content)
    except Exception as problem:  # the Rust library raises nothing narrower
        raise TokenizerError(f"{path}: not a tokenizer ({problem}); run the tokenizer stage again") from None


def end_token(folder: Path) -> str | None:
    """What the folder's ``tokenizer_config.json`` says ends a text; none where it has no such file or token."""
    path = folder / TOKENIZER_CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise TokenizerError(f"{path}: not JSON ({problem}); fetch or make it again") from None
    found = config.get("eos_token") if isinstance(config, dict) else None
    found = found.get("content") if isinstance(found, dict) else found
    return found if isinstance(found, str) else None
