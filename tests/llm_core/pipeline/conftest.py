"""Folders of tiny random models with tokenizers of the kinds that their families have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.tokenizer import Tokenizer

TEXT = "the cat sat on a mat and paris is in france where people eat good bread every day ?"
WORDS = TEXT.split()
LABELS = {
    "id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"},
    "label2id": {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3},
}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
TEXTS = ["the cat sat on a mat, 今天天气真好! ", "paris is in france 今天天气 where people eat good bread "] * 20


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the folder of a model: "ours", "gpt2", "t5", or the head of a BERT ("Model" for none)."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            {"ours": _ours, "gpt2": _gpt2, "t5": _t5}.get(kind, _bert)(made[kind], kind)
        return made[kind]

    return folder


def _ours(folder: Path, kind: str) -> None:
    tokenizer = Tokenizer.train(TEXTS, vocab_size=300)
    tokenizer.save(folder)
    shape = Model(num_layers=2, width=32, num_heads=4, num_kv_heads=2, mlp_width=48, context=64)
    save_pretrained(build(shape, tokenizer.vocab_size, end_id=tokenizer.end_id, seed=3), folder)


def _save(folder: Path, model: Any, rust: RustTokenizer, **settings: Any) -> None:
    transformers = pytest.importorskip("transformers")
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=rust, **settings).save_pretrained(folder)


def _gpt2(folder: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    rust = RustTokenizer.from_str(Tokenizer.train(TEXTS, vocab_size=300)._saved.to_str())
    config = transformers.GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, eos_token_id=1
    )
    torch.manual_seed(5)
    _save(folder, transformers.GPT2LMHeadModel(config), rust, eos_token="<|endoftext|>")


def _t5(folder: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -3.0) for word in WORDS)]
    rust = RustTokenizer(models.Unigram(pieces, unk_id=2))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    rust.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    config = transformers.T5Config(
        vocab_size=len(pieces),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        initializer_factor=4.0,
        decoder_start_token_id=0,
    )
    torch.manual_seed(6)
    tokens = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _save(folder, transformers.T5ForConditionalGeneration(config), rust, **tokens)


def _bert(folder: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    vocab = {token: place for place, token in enumerate([*SPECIALS, *WORDS, *(f"##{letter}" for letter in "sing")])}
    rust = RustTokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    rust.normalizer, rust.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    rust.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
        initializer_range=0.5,
        **({} if kind == "QuestionAnswering" else LABELS),
    )
    torch.manual_seed(7)
    tokens = {
        name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    name = "BertModel" if kind == "Model" else f"BertFor{kind}"
    _save(folder, getattr(transformers, name)(config), rust, model_input_names=BERT_INPUTS, **tokens)
