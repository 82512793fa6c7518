"""Byte-level BPE: a vocabulary of bytes and of what merging them gives, as ranks and as Hugging Face's files say it.

Ranks, tiktoken's form, map the bytes of each token to its place in the order of merging. Hugging Face's form lists the
merged pairs and spells bytes as letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from llm_core.tokenizer.blanks import shorten_blanks
from llm_core.tokenizer.errors import TokenizerError

# GPT-4's cut into contractions, words with the space before them, numbers, punctuation and white space; numbers in
# groups of at most two digits, since a small vocabulary has no room for a thousand groups of three.
PRE_TOKENS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_PRE_TOKENS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# GPT-4's and Llama 3's own spelling of theirs.
GPT4_PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
NUM_BYTES = 256
# Texts that the trainer holds at once.
BUFFER_TEXTS = 64

Ranks = Mapping[bytes, int]


def learn_ranks(texts: Iterable[str], num_ranks: int) -> Ranks:
    """Learn byte-pair merges (Sennrich et al. 2016) up to `num_ranks` tokens, the 256 bytes first.

    The commonest pair merges next, of equally common ones that of the lower ranks, so the order of texts is all one.
    rustbpe takes a quarter of the time of `tokenizers`' trainer for the same merges, ties aside.
    """
    from rustbpe import Tokenizer as Trainer

    if num_ranks < NUM_BYTES:
        raise TokenizerError(f"{num_ranks} entries are too few: the bytes alone are {NUM_BYTES}")
    trainer = Trainer()
    trainer.train_from_iterator(_encodable(texts), num_ranks, buffer_size=BUFFER_TEXTS, pattern=PRE_TOKENS)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def from_ranks(ranks: Ranks, pattern: str, specials: Sequence[str] = ()) -> RustTokenizer:
    """The tokenizer of these ranks: ids are the special tokens, then the ranks."""
    vocabulary = {name: place for place, name in enumerate(specials)}
    vocabulary |= {spell(token): rank + len(specials) for token, rank in ranks.items()}
    merges = [(spell(left), spell(right)) for left, right in merges_of(ranks)]
    rust = RustTokenizer(models.BPE(vocabulary, merges))
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(list(specials))
    return rust


def merges_of(ranks: Ranks) -> Iterator[tuple[bytes, bytes]]:
    """The pair that makes each longer token, in the order of merging; raises TokenizerError where none does."""
    if missing := [byte for byte in range(NUM_BYTES) if bytes([byte]) not in ranks]:
        raise TokenizerError(f"byte {missing[0]:#04x} is no token; byte-level ranks hold all {NUM_BYTES}")
    for token, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        if len(token) > 1:
            yield _halves(token, rank, ranks)


@cache
def byte_letters() -> Mapping[str, int]:
    """GPT-2's alphabet of bytes: printable Latin-1 ones stand for themselves, the others for letters from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def spell(token: bytes) -> str:
    """A token's bytes in that alphabet, as the entries of the vocabulary are written."""
    return token.decode("latin-1").translate(_letters_of_bytes())


def encodable(text: str) -> str:
    """The text itself; raises TokenizerError for a lone surrogate, which has no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise surrogate_error(problem) from None
    return text


def surrogate_error(problem: UnicodeEncodeError) -> TokenizerError:
    """What a library's complaint about a text means."""
    return TokenizerError(f"character {problem.start} is a lone surrogate, which is no text; remove it")


@cache
def _letters_of_bytes() -> Mapping[int, str]:
    return {byte: letter for letter, byte in byte_letters().items()}


def _encodable(texts: Iterable[str]) -> Iterator[str]:
    return (shorten_blanks(encodable(text)) for text in texts)


def _halves(token: bytes, rank: int, ranks: Ranks) -> tuple[bytes, bytes]:
    """What is left of a token after all merges that come before its own.

    Most long tokens can be cut in two lower ones at one place only, which spares them the merging in quadratic time.
    """
    cuts = [(token[:place], token[place:]) for place in range(1, len(token))]
    if len(cuts := [cut for cut in cuts if max(ranks.get(half, rank) for half in cut) < rank]) == 1:
        return cuts[0]
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        best, place = min((ranks.get(left + right, rank), place) for place, (left, right) in enumerate(pairwise(parts)))
        if best >= rank:
            raise TokenizerError(
                f"rank {rank} ({token!r}) is no merge of two tokens of lower rank; the file is damaged"
            )
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]
