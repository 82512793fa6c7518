"""A model version in memory: verified, warmed up, and ready to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from llm_core.artifact import Artifact, ArtifactError
from llm_core.generate import generate
from llm_core.models import load_pretrained
from llm_core.serving.chat import ChatError, ChatTemplate
from llm_core.serving.registry import RegisteredVersion
from llm_core.tokenizer import Tokenizer

WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class LoadedModel:
    """Weights, tokenizer and chat template of one version; shared by all its requests, never changed."""

    version: RegisteredVersion
    network: nn.Module
    tokenizer: Tokenizer
    chat: ChatTemplate | None
    context: int
    num_parameters: int

    @classmethod
    def load(cls, version: RegisteredVersion, folder: Path) -> LoadedModel:
        """Load the artifact at `folder` after checking every file's sha256 and that it is the registered one.

        Raises ArtifactError or ModelError for a wrong or damaged folder, NotFinite for weights that do not compute.
        """
        artifact = Artifact.open(folder, "model")
        if artifact.digest != version.artifact:
            raise ArtifactError(
                f"{folder}: digest {artifact.digest} is not {version.artifact}, registered as {version.name}"
            )
        network, tokenizer = load_pretrained(folder), Tokenizer.load(folder)
        config: Any = network.config
        if tokenizer.vocab_size > config.vocab_size:
            raise ArtifactError(
                f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}"
            )
        num_parameters = sum(parameter.numel() for parameter in network.parameters())
        loaded = cls(version, network, tokenizer, ChatTemplate.read(folder), config.context, num_parameters)
        loaded._warm_up()
        return loaded

    @property
    def name(self) -> str:
        """LINE@VERSION."""
        return self.version.name

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Ids of a plain prompt; the end-of-text id in front says that a document begins, as in training."""
        return (self.tokenizer.end_id, *self.tokenizer.encode(text))

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Ids of a conversation up to the assistant's turn, written by the model's own template."""
        if self.chat is None:
            raise ChatError(f"{self.name} has no chat template; use /v1/completions")
        specials = self.tokenizer.special_ids
        ids: list[int] = []
        for place, piece in enumerate(self.chat.render(messages, tuple(specials))):
            ids += [specials[piece]] if place % 2 else self.tokenizer.encode(piece)
        return tuple(ids)

    def _warm_up(self) -> None:
        """Decode a few tokens, so that the first request is as fast as the others and bad weights never serve."""
        prompt = self.encode_prompt("The")
        for _ in generate(self.network, prompt, max_tokens=WARM_UP_TOKENS, temperature=0.0):
            pass
