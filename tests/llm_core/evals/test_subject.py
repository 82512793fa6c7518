"""A network answers suites as it would if each pair were read alone, and a prompt were continued alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_core.config import Model
from llm_core.evals import subject as subject_module
from llm_core.evals.perplexity import EvaluationError, Scoring, score_texts
from llm_core.evals.subject import NetworkSubject
from llm_core.generate import generate
from llm_core.models import build
from llm_core.tokenizer import Tokenizer

TEXTS = ["the cat sat on a mat and said nothing at all ", "people eat good bread every day in the town "] * 20
CONTEXT = 48
SCORING = Scoring(stride=16, batch_windows=4)
FAMILIES = ("llama", "gpt2", "lstm")
PAIRS = [
    ("the cat sat on", " a mat"),
    ("the cat sat on", " nothing at all"),
    ("the cat sat on ", "a mat"),  # the blank moves
    ("", "people eat bread"),
    ("people eat good bread every day in the town " * 9, " and said nothing"),  # loses its beginning
    ("people", " the cat sat on a mat and said nothing"),
    ("people", " t"),
    ("the cat s", "at on a"),  # the boundary's characters are a token of the whole
    ("the cat sat on", " a mat"),  # again
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=300)


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> NetworkSubject:
    return _subject(request.param, tokenizer)


def _subject(family: Any, tokenizer: Tokenizer) -> NetworkSubject:
    shape = Model(family=family, num_layers=2, width=32, num_heads=4, num_kv_heads=4, mlp_width=48, context=CONTEXT)
    network = build(shape, tokenizer.vocab_size, tokenizer.end_id, seed=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # an untrained network finds everything as likely
    return NetworkSubject(network, tokenizer, SCORING)


def _alone(subject: NetworkSubject, before: str, behind: str) -> tuple[float, int, bool]:
    """By the definition: one row, all logits."""
    kept = before.rstrip()
    behind = before[len(kept) :] + behind
    tokenizer = subject.tokenizer
    context = tokenizer.encode(kept)
    scored = tokenizer.encode(kept + behind)[len(context) :]
    return _read(subject, context, scored)


@torch.inference_mode()
def _read(subject: NetworkSubject, context: list[int], scored: list[int]) -> tuple[float, int, bool]:
    ids = torch.tensor([[subject.tokenizer.end_id, *context, *scored][-CONTEXT - 1 :]])
    subject.network.eval()
    logprobs = subject.network(ids[:, :-1]).logits[0].double().log_softmax(-1)[-len(scored) :]
    targets = ids[0, -len(scored) :]
    is_greedy = bool((logprobs.argmax(1) == targets).all())
    return float(logprobs.gather(1, targets[:, None]).sum()), len(targets), is_greedy


def test_each_pair_is_as_likely_as_alone(subject: NetworkSubject) -> None:
    found = subject.likelihoods(PAIRS)
    assert found[0] == found[-1] and found[0] == found[2]
    for pair, likelihood in zip(PAIRS, found, strict=True):
        logprob, num_tokens, is_greedy = _alone(subject, *pair)
        assert likelihood.logprob == pytest.approx(logprob, abs=1e-3)
        assert (likelihood.num_tokens, likelihood.is_greedy) == (num_tokens, is_greedy)
    assert len({round(likelihood.logprob, 3) for likelihood in found}) == len(PAIRS) - 2


def test_a_continuation_that_its_context_swallows_is_not_certain(subject: NetworkSubject) -> None:
    encode = subject.tokenizer.encode
    assert len(encode("the peop")) >= len(encode("the people"))
    (found,) = subject.likelihoods([("the peop", "le")])
    assert found[:2] == pytest.approx(_read(subject, encode("the peop"), encode("le"))[:2], abs=1e-3)
    assert found.logprob < -0.1


def test_a_context_has_its_own_ids_where_the_whole_joins_them_to_what_follows(subject: NetworkSubject) -> None:
    encode = subject.tokenizer.encode
    context, whole = encode("the cat s"), encode("the cat sat on a")
    assert ("the cat s", "at on a") in PAIRS and whole[: len(context)] != context and len(whole) > len(context)


def test_an_empty_continuation_is_refused(subject: NetworkSubject) -> None:
    with pytest.raises(EvaluationError, match="empty continuation"):
        subject.likelihoods([("the cat", " sat"), ("the cat", "")])


def test_what_it_writes_is_what_it_finds_greedy(subject: NetworkSubject) -> None:
    (written,) = subject.write(["the cat"], max_tokens=4)
    ids = [subject.tokenizer.end_id, *subject.tokenizer.encode("the cat")]
    expected = list(generate(subject.network, ids, max_tokens=4, temperature=0.0, stop_ids={subject.tokenizer.end_id}))
    assert written == subject.tokenizer.decode(expected)


def test_small_passes_change_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = _subject("llama", tokenizer)
    passes: list[torch.Size] = []
    features = type(subject.network).features

    def counted(self: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        passes.append(ids.shape)
        return features(self, ids, **inputs)

    monkeypatch.setattr(type(subject.network), "features", counted)
    whole, most = subject.likelihoods(PAIRS), len(passes)
    monkeypatch.setattr(subject_module, "TOKENS_AT_ONCE", 30)
    small = subject.likelihoods(PAIRS)
    assert len(passes) > 2 * most + 1
    assert [found.logprob for found in small] == pytest.approx([found.logprob for found in whole], abs=1e-4)


def test_a_shared_context_is_read_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = _subject("llama", tokenizer)
    read: list[torch.Size] = []
    features = type(subject.network).features

    def counted(self: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        read.append(ids.shape)
        return features(self, ids, **inputs)

    monkeypatch.setattr(type(subject.network), "features", counted)
    subject.likelihoods([("the cat sat on a mat and said", f" {word}") for word in "abcdefgh"])
    assert read[0][0] == 1
    assert sum(shape.numel() for shape in read[1:]) <= 8 * 2


def test_long_prompts_lose_their_beginning_and_stops_end_answers(tokenizer: Tokenizer) -> None:
    subject = _subject("llama", tokenizer)
    long = "people eat good bread every day in the town " * 9
    assert len(tokenizer.encode(long)) > CONTEXT
    prompts = [long, "the cat", long]
    written = subject.write(prompts, max_tokens=12)
    assert written[0] == written[2] != written[1]
    assert all(written)
    mark = written[1][3]
    assert subject.write(["the cat"], max_tokens=12, stop=(mark,)) == [written[1].split(mark)[0]]


def test_bits_are_those_of_documents(tokenizer: Tokenizer) -> None:
    subject = _subject("llama", tokenizer)
    expected = score_texts(subject.network, tokenizer, TEXTS[:2], SCORING)["bits"].tolist()
    assert subject.bits(TEXTS[:2]) == expected


def test_progress_comes_to_its_end(tokenizer: Tokenizer) -> None:
    told: list[tuple[int, int]] = []
    subject = _subject("llama", tokenizer)
    NetworkSubject(subject.network, tokenizer, SCORING, progress=lambda *both: told.append(both)).likelihoods(PAIRS)
    assert told[-1] == (len(PAIRS) - 2, len(PAIRS) - 2)


def test_what_it_cannot_answer_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(EvaluationError, match="a continuation of .* the model reads 48 at once"):
        _subject("llama", tokenizer).likelihoods([("", "people eat good bread " * 30)])
    with pytest.raises(EvaluationError, match="masked_lm has no likelihood of a continuation"):
        _subject("bert", tokenizer).likelihoods([("a", "b")])
    damaged = _subject("llama", tokenizer)
    with torch.no_grad():
        next(iter(damaged.network.parameters())).fill_(float("nan"))
    with pytest.raises(EvaluationError, match="weights are damaged"):
        damaged.likelihoods([("a", " b")])
