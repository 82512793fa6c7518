"""A model version in memory: verified, warmed up, and ready to answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from llm_core.artifact import Artifact, ArtifactError
from llm_core.generate import ContextExceeded, NotFinite, Sampling, TextStream, Token
from llm_core.kernels import NativeDecoder, NoCompiler, Precision, block_bytes, is_supported
from llm_core.models import load_pretrained
from llm_core.models.folder import GENERATING
from llm_core.models.interface import Task
from llm_core.pipeline.codec import Codec, Continuation
from llm_core.serving import backends, golden
from llm_core.serving.alone import AloneRunner
from llm_core.serving.blocks import blocks_for
from llm_core.serving.cards import Card
from llm_core.serving.chat import ChatError, ChatTemplate
from llm_core.serving.jobs import Answer, Event, Failure, Job, Piece, Runner
from llm_core.serving.paged import PagedRunner
from llm_core.serving.registry import RegisteredVersion
from llm_core.serving.settings import DEFAULT_SETTINGS, Backend, RunnerSettings
from llm_core.serving.vectors import embed
from llm_core.tokenizer import StreamDecoder, Tokenizer, TokenizerError

logger = logging.getLogger(__name__)

WARM_UP_TOKENS, COMPARED_TOKENS = 4, 5
# How far a logit may be from torch's in float32, in standard deviations of the logits.
MOST_ERROR: Mapping[Precision, float] = {"float32": 0.01, "bfloat16": 0.3, "int8": 1.0}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """Weights, tokenizer and chat template of one version; shared by all its requests, never changed."""

    version: RegisteredVersion
    network: nn.Module
    speller: Tokenizer | None
    """None for a vocabulary of a kind that prompts are not written in, such as WordPiece; `codec` reads every kind."""
    chat: ChatTemplate | None
    context: int
    num_parameters: int
    runner: Runner = field(default_factory=lambda: AloneRunner(RunnerSettings.max_running))
    card: Card = Card()
    codec: Codec = field(kw_only=True)
    backend: Backend = "tidemill"

    @classmethod
    def load(cls, version: RegisteredVersion, folder: Path, settings: RunnerSettings = DEFAULT_SETTINGS) -> LoadedModel:
        """Load the artifact at `folder` after checking every file's sha256 and that it is the registered one.

        Raises ArtifactError or ModelError for a wrong or damaged folder, NotFinite for weights that do not compute,
        GoldenMismatch for a model that does not say here what it said when it was registered, BackendError for another
        engine's program that does not get well or computes something else.
        """
        artifact = _verify(version, folder)
        network, codec = load_pretrained(folder), Codec(folder)
        speller = _speller(folder, network.task)
        config: Any = network.config
        if codec.vocab_size > config.vocab_size:
            raise ArtifactError(
                f"{folder}: its tokenizer has {codec.vocab_size} tokens, the model only {config.vocab_size}"
            )
        if tag := version.tags.get(golden.TAG):
            golden.Golden.from_tag(tag).check(network, codec)
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        runner = (
            _runner(network, settings) if settings.backend == "tidemill" else _start(version, folder, network, settings)
        )
        chat, card = ChatTemplate.read(folder), Card.read(artifact)
        loaded = cls(
            version,
            network,
            speller,
            chat,
            config.context,
            num_parameters,
            runner,
            card,
            settings.backend,
            codec=codec,
        )
        try:
            loaded._warm_up(settings)
        except BaseException:
            runner.close()
            raise
        if settings.backend != "tidemill":
            network.to("meta")  # the program has the weights; config and shapes are all that is asked for from now on
        return loaded

    @property
    def name(self) -> str:
        """LINE@VERSION."""
        return self.version.name

    @property
    def num_bytes(self) -> int:
        """Memory that it takes at most, answers running: weights for torch, packed ones, keys and values."""
        return sum(tensor.nbytes for tensor in self.network.parameters()) + self.runner.num_bytes

    @property
    def task(self) -> Task:
        """What its head is for."""
        network: Any = self.network
        task: Task = network.task
        return task

    @property
    def writes(self) -> bool:
        """Whether it continues prompts; a `translate` needs only the codec."""
        return self.task in GENERATING and self.speller is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a model that `writes`."""
        assert self.speller is not None, f"{self.name}: nobody asked whether it writes"
        return self.speller

    def require_readable(self, text: str) -> None:
        """Raise ContextExceeded for a text that is too long whatever its tokens, before a megabyte is cut into them."""
        most = self.context * self.codec.longest_token
        if len(text) > most:
            raise ContextExceeded(
                f"this model's context is {self.context} tokens, which hold at most {most} characters, and the prompt "
                f"has {len(text)}; shorten it"
            )

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Ids of a plain prompt; the end-of-text id in front says that a document begins, as in training."""
        self.require_readable(text)
        if self.speller is None:
            return tuple(self.codec.prompt(text))
        return (self.speller.end_id, *self.speller.encode(text))

    def new_text(self) -> TextStream:
        """What turns the ids of one answer into text."""
        return Continuation(self.codec) if self.speller is None else StreamDecoder(self.speller)

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], values: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[int, ...]:
        """Ids of a conversation up to the assistant's turn, written by the model's own template, given `values`."""
        if self.chat is None:
            raise ChatError(f"{self.name} has no chat template; use /v1/completions")
        self.require_readable("".join(message["content"] for message in messages))
        specials = self.tokenizer.special_ids
        ids: list[int] = []
        for place, piece in enumerate(self.chat.render(messages, tuple(specials), values)):
            ids += [specials[piece]] if place % 2 else self.tokenizer.encode(piece)
        return tuple(ids)

    def _warm_up(self, settings: RunnerSettings) -> None:
        """Write a few tokens, so that the first request is as fast as the others and bad weights never serve."""
        if self.task not in GENERATING:
            self._read_once()
            return
        self._write(self.encode_prompt("The"), WARM_UP_TOKENS)
        if not isinstance(self.runner, AloneRunner):
            self._compare(settings)

    def _write(self, ids: tuple[int, ...], max_tokens: int, num_top: int = 0) -> list[Token]:
        """The greedy answer, before anyone else asks; raises NotFinite or BackendError where it fails."""
        events: list[Event] = []
        news = threading.Event()
        job = Job(self, ids, max_tokens, Sampling(temperature=0.0), num_top=num_top)
        self.runner.add(Answer(job, events.append, news.set))
        while self.runner.num_running + self.runner.num_waiting:
            if self.runner.is_idle:
                news.wait()
            news.clear()
            self.runner.step()
        if isinstance(events[-1], Failure):
            raise self._unfit(events[-1].message)
        return [token for event in events if isinstance(event, Piece) for token in event.tokens]

    def _read_once(self) -> None:
        network: Any = self.network
        (vectors,) = embed(network, [self.encode_prompt("The")])
        if not vectors[0].isfinite().all():
            raise NotFinite(f"{self.name} finds numbers that are none; its weights are damaged")

    def _compare(self, settings: RunnerSettings) -> None:
        """Raise NotFinite or BackendError where the engine computes something else than torch does."""
        ids = self.encode_prompt(golden.TEXT)[: self.context - 1]
        with torch.inference_mode():
            expected = self.network(torch.tensor([ids])).logits[0, -1]
        if isinstance(self.runner, PagedRunner):
            errors = torch.from_numpy(self.runner.logits_of(ids)) - expected
        else:
            (token,) = self._write(ids, max_tokens=1, num_top=COMPARED_TOKENS)
            places, found = zip(*token.top, strict=True)
            errors = torch.tensor(found) - expected.log_softmax(-1)[list(places)]
        error = float(errors.abs().max() / expected.std())
        if not error <= MOST_ERROR[settings.precision]:
            raise self._unfit(
                f"{settings.backend}'s logits are {error:.3g} standard deviations off in {settings.precision}"
            )

    def _unfit(self, message: str) -> ValueError:
        return NotFinite(message) if self.backend == "tidemill" else backends.BackendError(message)


def _verify(version: RegisteredVersion, folder: Path) -> Artifact:
    """The artifact at `folder`; raises ArtifactError unless it is the registered one, to the byte."""
    artifact = Artifact.open(folder, "model")
    if artifact.digest != version.artifact:
        raise ArtifactError(
            f"{folder}: digest {artifact.digest} is not {version.artifact}, registered as {version.name}"
        )
    return artifact


def _start(version: RegisteredVersion, folder: Path, network: Any, settings: RunnerSettings) -> Runner:
    """Another engine's program, which looks at the artifact again whenever it is started again."""

    def verify() -> None:
        _verify(version, folder)

    return backends.start(version.name, folder, network, settings, verify)


def _speller(folder: Path, task: Task) -> Tokenizer | None:
    try:
        return Tokenizer.load(folder)
    except TokenizerError:
        if task == "causal_lm":  # whatever else it could do, it is there to write
            raise
        return None


def _runner(network: nn.Module, settings: RunnerSettings) -> Runner:
    """The kernel's runner where it knows the network, else one that decodes each answer by itself."""
    if not is_supported(network):
        return AloneRunner(settings.max_running)
    try:
        decoder = NativeDecoder(network, _num_blocks(network, settings), settings.precision)
    except NoCompiler as problem:
        logger.warning("answers are decoded one by one, several times as slowly: %s", problem)
        return AloneRunner(settings.max_running)
    return PagedRunner(decoder, settings.max_running, settings.threads)


def _num_blocks(network: nn.Module, settings: RunnerSettings) -> int:
    """Room for all that may run and as much again for beginnings that come again, within the memory allowed."""
    config: Any = network.config
    each = blocks_for(config.context) + 1
    allowed = settings.cache_bytes // block_bytes(config, settings.precision)
    if allowed < each:
        needed = each * block_bytes(config, settings.precision)
        raise ValueError(
            f"cache_bytes {settings.cache_bytes} holds less than one text of {config.context} tokens; "
            f"give at least {needed}"
        )
    return min(2 * settings.max_running * each, allowed)
