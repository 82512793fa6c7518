"""What a version said to one sentence when it was registered: whoever loads it must find the same.

Checksums tell that bytes arrived; this tells that they still mean the same here: that this code, on this machine, reads
the same tokens out of the sentence and computes the same logits.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_core.generate.reading import beginnings, reads_a_source
from llm_core.pipeline.codec import Codec

TAG = "tidemill.golden"
TEXT = "In 1862, fellow citizens: the état of our Union cost $3.14 (about π), 国家 said."
MOST_TOKENS, NUM_VALUES = 24, 32
TOLERANCE = 1e-3
"""Machines and libraries differ in the last bits of a sum; a wrong weight differs in the first."""


class GoldenMismatch(ValueError):
    """A version that does not say here what it said when it was registered."""


@dataclass(frozen=True)
class Golden:
    """Tokens of the sentence, and numbers taken evenly from the logits that they give."""

    ids: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, network: nn.Module, codec: Codec) -> Golden:
        """What this model says; `network` is in evaluation mode."""
        config: Any = network.config
        ids = codec.plain(TEXT).ids[: min(MOST_TOKENS, config.context)]
        logits = _logits(network, ids).flatten()
        places = torch.linspace(0, len(logits) - 1, NUM_VALUES).round().long()
        return cls(tuple(ids), tuple(round(value, 6) for value in logits[places].tolist()))

    @classmethod
    def from_tag(cls, tag: str) -> Golden:
        """Read a version's tag; raises GoldenMismatch where it is damaged."""
        try:
            given = json.loads(tag)
            return cls(tuple(given["ids"]), tuple(map(float, given["values"])))
        except (ValueError, KeyError, TypeError) as problem:
            raise GoldenMismatch(f"the tag {TAG} cannot be read ({problem}); register the version again") from None

    def to_tag(self) -> str:
        """The text that a version is tagged with."""
        return json.dumps({"ids": self.ids, "values": self.values})

    def check(self, network: nn.Module, codec: Codec) -> None:
        """Raise GoldenMismatch unless this model says the same."""
        found = Golden.of(network, codec)
        if found.ids != self.ids:
            raise GoldenMismatch(
                f"its tokenizer reads {found.ids[:8]}... where {self.ids[:8]}... was registered: another vocabulary"
            )
        for place, (here, there) in enumerate(zip(found.values, self.values, strict=True)):
            if not math.isclose(here, there, rel_tol=TOLERANCE, abs_tol=TOLERANCE):  # never so where one is NaN
                raise GoldenMismatch(f"golden value {place} is {here} here and was {there} when it was registered")


@torch.inference_mode()
def _logits(network: nn.Module, ids: list[int]) -> Tensor:
    device = next(network.parameters()).device
    inputs = [torch.tensor([ids], device=device)]
    if reads_a_source(network):
        inputs.append(torch.tensor(beginnings(network, [ids]), device=device))
    logits: Tensor = network(*inputs).logits
    return logits.float().cpu()
