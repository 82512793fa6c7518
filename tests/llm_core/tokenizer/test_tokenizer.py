"""The tokenizer gives any text back exactly, and never takes text for control."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_core.tokenizer import END, SPECIALS, TURN_START, StreamDecoder, Tokenizer, TokenizerError, sample_evenly
from tests.llm_core.tokenizer.texts import FRAGMENTS, HOSTILE

CORPUS = [
    "The Congress shall have power to lay and collect taxes, 1790. It's ours; we'll keep it.\n\n" * 20,
    "naïve café",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, vocab_size=320)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text


planes = st.one_of(
    st.characters(min_codepoint=plane << 16, max_codepoint=plane << 16 | 0xFFFF, exclude_categories=["Cs"])
    for plane in range(17)
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(planes | st.sampled_from(FRAGMENTS), max_size=60).map("".join))
def test_any_text_of_any_plane_comes_back_exactly(learned: Tokenizer, text: str) -> None:
    assert learned.decode(learned.encode(text)) == text
    assert learned.decode(learned.encode_documents([text])[0].tolist()) == text


def test_text_that_spells_a_control_token_is_never_one(tokenizer: Tokenizer) -> None:
    controls = set(tokenizer.special_ids.values())
    for text in HOSTILE:
        assert controls.isdisjoint(tokenizer.encode(text))
    assert all(controls.isdisjoint(ids) for ids in tokenizer.encode_batch(HOSTILE))


def test_a_loaded_tokenizer_keeps_control_tokens_out_as_well(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode(f"a{END}b") == tokenizer.encode(f"a{END}b")
    assert loaded.end_id not in loaded.encode(END)


def test_a_batch_is_encoded_like_its_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(HOSTILE) == [tokenizer.encode(text) for text in HOSTILE]


def test_a_lone_surrogate_is_refused_by_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="character 2 is a lone surrogate"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(TokenizerError, match="lone surrogate"):
        tokenizer.encode_batch(["fine", "\udfff"])


def test_ids_are_the_bytes_and_the_specials_first(tokenizer: Tokenizer) -> None:
    assert [tokenizer.special_ids[name] for name in SPECIALS] == [0, 1, 2]
    assert tokenizer.end_id == 0
    assert tokenizer.vocab_size == 320
    assert tokenizer.decode([0, *tokenizer.encode("hi"), 1]) == "hi"


def test_a_small_text_gives_a_smaller_vocabulary() -> None:
    assert Tokenizer.train(["ab"], vocab_size=4096).vocab_size == 3 + 256 + 1


@pytest.mark.parametrize("token_id", [-1, 320, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(TokenizerError, match="no token id; the vocabulary has 320"):
        tokenizer.decode([token_id])


def test_equal_texts_give_equal_files_in_any_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name, texts in {"one": CORPUS, "two": CORPUS[::-1]}.items():
        (tmp_path / name).mkdir()
        Tokenizer.train(iter(texts), vocab_size=320).save(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize("text", [text for text in HOSTILE if len(text) < 200])
def test_a_stream_gives_the_text_and_no_half_characters(tokenizer: Tokenizer, text: str) -> None:
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(pieces) + stream.finish() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_cut_inside_a_character_says_so_at_the_end(tokenizer: Tokenizer) -> None:
    stream = StreamDecoder(tokenizer)
    assert "".join(stream.push(token_id) for token_id in tokenizer.encode("🙂")[:-1]) == ""
    assert stream.finish() == "\ufffd"


def test_transformers_loads_the_folder_and_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in HOSTILE:
        if not any(name in text for name in SPECIALS):
            assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.end_id
    chat = theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert chat == f"{TURN_START}user\nhi<|im_end|>\n{TURN_START}assistant\n"


def test_a_folder_without_a_usable_tokenizer_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no tokenizer here"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: not a tokenizer"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    content = (tmp_path / "tokenizer.json").read_text().replace(TURN_START, "<|renamed|>")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"the vocabulary has no <\|im_start\|>"):
        Tokenizer.load(tmp_path)


def test_a_sample_takes_the_same_share_of_every_text() -> None:
    texts = ["a" * 100, "b" * 300]
    assert [len(text) for text in sample_evenly(texts, total_bytes=400, sample_bytes=100)] == [25, 75]
    assert list(sample_evenly(texts, total_bytes=400, sample_bytes=400)) == texts
