"""Existing tokenizers keep their ids, get the control tokens they lack, and are refused when damaged."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from llm_core.tokenizer import END, SPECIALS, TURN_START, Tokenizer, TokenizerError, read_existing, tokenizer_digest
from llm_core.tokenizer.byte_level import learn_ranks, merges_of
from tests.llm_core.tokenizer.texts import HOSTILE, speeches


def save_foreign(folder: Path, rust: RustTokenizer, **config: object) -> Path:
    """A folder as a hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def byte_level(**settings: object) -> RustTokenizer:
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False, **settings)
    rust.train_from_iterator(speeches(1), trainer)
    return rust


def unigram() -> RustTokenizer:
    """Like T5's: its control tokens are pieces of the model."""
    rust = RustTokenizer(models.Unigram())
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=specials, unk_token="<unk>", show_progress=False)
    rust.train_from_iterator([*speeches(1), "a < b / s > c"] * 2, trainer)
    return rust


def word_piece() -> RustTokenizer:
    """Like BERT's."""
    rust = RustTokenizer(models.WordPiece(unk_token="[UNK]"))
    rust.normalizer, rust.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    rust.train_from_iterator(speeches(1), trainer)
    return rust


def test_a_folders_own_end_token_is_kept(tmp_path: Path) -> None:
    foreign = byte_level(special_tokens=["<s>", "</s>"])
    for number, eos in enumerate(["</s>", {"content": "</s>", "lstrip": False}]):
        tokenizer = read_existing(save_foreign(tmp_path / str(number), foreign, eos_token=eos))
        assert tokenizer.end_id == 1
        assert [tokenizer.special_ids[name] for name in SPECIALS[1:]] == [600, 601]
        assert tokenizer.encode("It's a state") == foreign.encode("It's a state").ids
        assert tokenizer.encode_documents(["a</s>"])[0].tolist() == tokenizer.encode("a</s>")
        assert 1 not in tokenizer.encode("a</s>")
        assert tokenizer.decode([0, *tokenizer.encode("a</s>"), 1]) == "a</s>"


def test_an_entry_that_is_not_spelled_in_letters_of_bytes_stands_for_itself(tmp_path: Path) -> None:
    settings = json.loads(byte_level().to_str())
    settings["model"]["vocab"]["▁ reserved"] = 600
    foreign = RustTokenizer.from_str(json.dumps(settings))
    tokenizer = read_existing(save_foreign(tmp_path, foreign))
    assert tokenizer.decode([600]) == foreign.decode([600]) == "▁ reserved"
    assert tokenizer.decode(tokenizer.encode("▁ reserved")) == "▁ reserved"


@pytest.mark.parametrize("config", [{}, {"eos_token": None}, {"eos_token": "<not in it>"}])
def test_without_an_end_token_of_its_own_one_is_added(config: dict[str, object], tmp_path: Path) -> None:
    tokenizer = read_existing(save_foreign(tmp_path, byte_level(), **config))
    assert [tokenizer.special_ids[name] for name in SPECIALS] == [600, 601, 602]
    assert tokenizer.vocab_size == 603


@pytest.mark.parametrize("make", [byte_level, unigram, word_piece])
def test_what_was_adopted_is_saved_so_that_transformers_gives_the_same_ids(
    make: Callable[[], RustTokenizer], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    foreign = make()
    adopted = read_existing(save_foreign(tmp_path / "foreign", foreign, eos_token="</s>"))
    (tmp_path / "ours").mkdir()
    adopted.save(tmp_path / "ours")
    loaded, theirs = Tokenizer.load(tmp_path / "ours"), transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert dict(loaded.special_ids) == dict(adopted.special_ids)
    assert theirs.eos_token_id == loaded.end_id
    assert theirs.convert_tokens_to_ids(TURN_START) == loaded.special_ids[TURN_START]
    for text in [speeches(1)[0][:3000], *(text for text in HOSTILE if "<|" not in text)]:
        ids = foreign.encode(text, add_special_tokens=False).ids
        assert loaded.encode(text) == loaded.encode_documents([text])[0].tolist() == ids
        assert theirs.encode(text, add_special_tokens=False) == ids


def test_pieces_that_spell_control_tokens_never_become_them(tmp_path: Path) -> None:
    foreign = unigram()
    tokenizer = read_existing(save_foreign(tmp_path, foreign, eos_token="</s>"))
    assert tokenizer.end_id == 1
    for text in ("</s>", "a </s><pad> b", "</s></s>"):
        assert not {0, 1} & set(tokenizer.encode(text))
        assert tokenizer.encode(text) == tokenizer.encode_documents([text])[0].tolist()
    assert tokenizer.decode(tokenizer.encode("the states")).strip() == "the states"


def test_words_and_their_pieces_decode_with_spaces_between_words(tmp_path: Path) -> None:
    tokenizer = read_existing(save_foreign(tmp_path, word_piece()))
    ids = tokenizer.encode("the senate unfathomable")
    assert len(ids) > 3
    assert tokenizer.decode(ids) == " the senate unfathomable"


def test_settings_that_cut_or_fill_up_texts_are_dropped(tmp_path: Path) -> None:
    foreign = byte_level()
    foreign.enable_truncation(8)
    foreign.enable_padding(length=64)
    tokenizer = read_existing(save_foreign(tmp_path, foreign))
    assert tokenizer.decode(tokenizer.encode("state " * 50)) == "state " * 50


def test_ids_that_a_vocabulary_leaves_out_are_silent(tmp_path: Path) -> None:
    settings = json.loads(byte_level().to_str())
    last = max(settings["model"]["vocab"], key=settings["model"]["vocab"].__getitem__)
    settings["model"]["vocab"][last] = 700
    tokenizer = read_existing(save_foreign(tmp_path, RustTokenizer.from_str(json.dumps(settings))))
    assert tokenizer.vocab_size == 701
    assert tokenizer.token_bytes(650) == b""
    settings["model"]["vocab"][last] = 70_000
    wide = read_existing(save_foreign(tmp_path, RustTokenizer.from_str(json.dumps(settings))))
    assert wide.encode_documents(["the state"])[0].tolist() == tokenizer.encode("the state")
    assert wide.encode_documents([last])[0].dtype == np.uint32
    settings["model"]["vocab"][last] = 600
    with pytest.raises(TokenizerError, match="id 600 is taken twice"):
        read_existing(save_foreign(tmp_path, RustTokenizer.from_str(json.dumps(settings))))


def write_ranks(path: Path, ranks: dict[bytes, int]) -> Path:
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items()))
    return path


def test_tiktoken_ranks_keep_their_ids(tmp_path: Path) -> None:
    from tiktoken import Encoding

    from llm_core.tokenizer.byte_level import GPT2_PRE_TOKENS

    ranks = dict(learn_ranks([*speeches(2), *HOSTILE], 900))
    tokenizer = read_existing(write_ranks(tmp_path / "own.tiktoken", ranks))
    encoding = Encoding("own", pat_str=GPT2_PRE_TOKENS, mergeable_ranks=ranks, special_tokens={})
    assert tokenizer._bulk is not None
    for text in [*HOSTILE, speeches(1)[0]]:
        assert tokenizer.encode(text) == encoding.encode_ordinary(text)
    assert tokenizer.special_ids[END] == len(ranks) == 900


def test_the_merges_of_ranks_are_those_that_made_them() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    for token in (b"ab", b"bc", b"abab", b"abc", b"xabab", b"aaaa"[:2], b"aaaa", b"a" * 8):
        ranks[token] = len(ranks)
    assert list(merges_of(ranks)) == [
        (b"a", b"b"),
        (b"b", b"c"),
        (b"ab", b"ab"),
        (b"ab", b"c"),
        (b"x", b"abab"),
        (b"a", b"a"),
        (b"aa", b"aa"),
        (b"aaaa", b"aaaa"),
    ]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sentencepiece_models_keep_their_ids(model_type: str, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = [line for text in speeches(3) for line in text.splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "own"),
        vocab_size=700,
        model_type=model_type,
        byte_fallback=model_type == "bpe",
        minloglevel=2,
        num_threads=1,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "own.model"))
    ours = read_existing(tmp_path / "own.model")
    assert ours.end_id == theirs.eos_id() == 2
    for text in [*HOSTILE, *speeches(2), "  two  spaces ", "</s> a</s>", "x<s>"]:
        assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode("the states")) == " the states"
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode(lines[0]) == theirs.encode(lines[0])


DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "json that is none": ("tokenizer.json", b"{", r"tokenizer\.json: not a tokenizer"),
    "json of something else": ("tokenizer.json", b'{"a": 1}', r"tokenizer\.json: not a tokenizer"),
    "bytes that are no text": ("tokenizer.json", b"\xff\xfe", r"tokenizer\.json: not a tokenizer"),
    "no base64": ("x.tiktoken", b"!!! 0\n", r"x\.tiktoken: line 1: not a token in base64"),
    "no rank": ("x.tiktoken", b"YQ== 0\nYg==\n", r"line 2: not a token in base64"),
    "ranks with a hole": ("x.tiktoken", b"YQ== 0\nYg== 2\n", "ranks must be 0, 1, 2"),
    "ranks without all bytes": ("x.tiktoken", b"YQ== 0\n", "ranks must be 0, 1, 2"),
    "no model": ("x.model", b"not a model", r"x\.model: not a SentencePiece model"),
    "an empty model": ("x.model", b"", r"x\.model: not a SentencePiece model"),
}


@pytest.mark.parametrize("name, content, message", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    if name.endswith(".model"):
        pytest.importorskip("sentencepiece")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        read_existing(tmp_path)


def test_ranks_that_no_merges_give_are_refused(tmp_path: Path) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256}
    with pytest.raises(TokenizerError, match=r"x\.tiktoken: rank 256 \(b'abc'\) is no merge"):
        read_existing(write_ranks(tmp_path / "x.tiktoken", ranks))
    with pytest.raises(TokenizerError, match="ranks must be 0, 1, 2"):
        read_existing(write_ranks(tmp_path / "z.tiktoken", ranks | {b"abc": 300}))
    swapped = {b"\x00\x00" if token == b"\x00" else token: rank for token, rank in ranks.items() if token != b"abc"}
    with pytest.raises(TokenizerError, match="byte 0x00 is no token"):
        read_existing(write_ranks(tmp_path / "y.tiktoken", swapped))


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    save_foreign(tmp_path, byte_level())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: not JSON"):
        read_existing(tmp_path)


def test_a_spelling_of_bytes_that_is_unknown_is_refused(tmp_path: Path) -> None:
    foreign = byte_level()
    foreign.decoder = decoders.CTC()
    tokenizer = read_existing(save_foreign(tmp_path, foreign))
    with pytest.raises(TokenizerError, match="decoder CTC: how it spells bytes is unknown"):
        tokenizer.decode([5])


def test_a_place_without_one_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"here is no tokenizer\.json, \.model or \.tiktoken file"):
        read_existing(tmp_path)
    (tmp_path / "a.model").touch()
    (tmp_path / "b.tiktoken").touch()
    with pytest.raises(TokenizerError, match=r"here is a\.model, b\.tiktoken"):
        read_existing(tmp_path)
    with pytest.raises(TokenizerError, match="no such file"):
        read_existing(tmp_path / "gone.model")
    with pytest.raises(TokenizerError, match=r"tokenizers are folders, \.json"):
        tokenizer_digest(tmp_path / "gone")


def test_the_digest_is_of_what_defines_the_tokenizer_alone(tmp_path: Path) -> None:
    folder = save_foreign(tmp_path / "one", byte_level(), eos_token="</s>")
    before = tokenizer_digest(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    assert tokenizer_digest(folder) == before == tokenizer_digest(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<s>"}')
    assert tokenizer_digest(folder) != before
