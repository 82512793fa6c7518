"""SentencePiece models as tokenizers of the Hugging Face kind, with the same ids.

Two texts are the exception: what follows a user-defined symbol is taken for the beginning of a text, with a space put
before it; and a text that spells the unknown token of a unigram model gets that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from llm_core.tokenizer.errors import TokenizerError
from llm_core.tokenizer.spelling import SPACE

# What kinds of pieces a model has, from sentencepiece_model.proto (Kudo & Richardson 2018).
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
# Kinds of models.
UNIGRAM, BPE = 1, 2


def read_sentencepiece(path: Path) -> tuple[RustTokenizer, str | None]:
    """Read a SentencePiece model file, unigram or BPE: the tokenizer, and its end token where it has one.

    Raises TokenizerError for a file that is damaged or of another kind, and without the library.
    """
    proto = _read(path)
    rust = RustTokenizer(_model(proto, path))
    if steps := _normalizers(proto.normalizer_spec):
        rust.normalizer = normalizers.Sequence(steps)
    scheme = "always" if proto.normalizer_spec.add_dummy_prefix else "never"
    rust.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=proto.trainer_spec.split_by_whitespace)
    strip = [decoders.Strip(" ", 1, 0)] if scheme == "always" else []
    rust.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    rust.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _pieces(proto, CONTROL)])
    rust.add_tokens([AddedToken(name, normalized=False) for name in _pieces(proto, USER_DEFINED)])
    end = proto.trainer_spec.eos_piece
    return rust, end if end in set(_pieces(proto, CONTROL)) else None


def _read(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError

        schema: Any = import_module("sentencepiece.sentencepiece_model_pb2")  # generated code without types
    except ImportError as problem:
        raise TokenizerError(f"{path}: SentencePiece models need {problem.name}; pip install sentencepiece") from None
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as problem:
        raise TokenizerError(f"{path}: not a SentencePiece model ({problem}); fetch it again") from None
    if not proto.pieces:
        raise TokenizerError(f"{path}: not a SentencePiece model (it has no pieces); fetch it again")
    return proto


def _model(proto: Any, path: Path) -> models.Model:
    trainer = proto.trainer_spec
    if trainer.treat_whitespace_as_suffix or trainer.model_type not in (UNIGRAM, BPE):
        raise TokenizerError(f"{path}: only unigram and BPE models with spaces before words are read")
    if trainer.model_type == UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(scores, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    return models.BPE(
        {piece.piece: place for place, piece in enumerate(proto.pieces)},
        _merges({piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}),
        unk_token=trainer.unk_piece,
        fuse_unk=True,
        byte_fallback=trainer.byte_fallback,
    )


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, the best score first: SentencePiece merges by score of what comes out."""
    pairs = [
        (-score, left, right)
        for piece, score in scores.items()
        for place in range(1, len(piece))
        if (left := piece[:place]) in scores and (right := piece[place:]) in scores
    ]
    return [(left, right) for _, left, right in sorted(pairs)]


def _normalizers(spec: Any) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # Plain spaces only, which white space of other kinds has become by then.
        steps += [normalizers.Replace(Regex(pattern), left) for pattern, left in ((r"\A +| +\z", ""), (" {2,}", " "))]
    return steps


def _pieces(proto: Any, kind: int) -> Iterator[str]:
    return (piece.piece for piece in proto.pieces if piece.type == kind)
