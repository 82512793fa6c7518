"""How a text comes to a network that reads: as ids, several texts at a time.

Dimensions: B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tokenizers import Encoding
from torch import Tensor

from llm_core.generate import ContextExceeded
from llm_core.models.interface import Network
from llm_core.pipeline.codec import Codec


class Understanding:
    """What the pipelines that read have in common: texts to ids, and their way through the network."""

    def __init__(self, network: Network, codec: Codec, task: str) -> None:
        self._network, self._codec, self.task = network, codec, task

    def read(self, text: str, pair: str | None = None) -> Encoding:
        """A text or a pair as ids; raises ValueError for one that this model cannot read."""
        encoding = self._codec.encode(text, pair)
        if not encoding.ids:
            raise ValueError("a text without any token cannot be read; give at least a word")
        context: int = self._network.config.context
        if len(encoding.ids) > context:
            raise ContextExceeded(f"this model reads {context} tokens and the text has {len(encoding.ids)}; shorten it")
        return encoding

    def logits(self, encodings: Sequence[Encoding]) -> list[Tensor]:
        """What the network says about each text, without padding, in float32 on the CPU."""
        return self._through(lambda ids, more: self._network(ids, **more).logits, encodings)

    @torch.inference_mode()
    def _through(
        self, network: Callable[[Tensor, dict[str, Tensor]], Tensor], encodings: Sequence[Encoding]
    ) -> list[Tensor]:
        """What `network` makes of ids (B, T) and their other inputs, for each text: of (B, T, ..) without padding."""
        results: dict[int, Tensor] = {}
        for places in self._batches([len(encoding.ids) for encoding in encodings]):
            found = network(*self._inputs([encodings[place] for place in places])).float().cpu()
            for place, row in zip(places, found, strict=True):
                results[place] = row[: len(encodings[place].ids)] if found.dim() == 3 else row
        return [results[place] for place in range(len(encodings))]

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which texts are read together. An encoder-decoder's decoder reads the text shifted and its end by place,
        and padding would move both: there texts of one length are."""
        if getattr(self._network.config, "start_id", None) is None:
            return [list(range(len(lengths)))] if lengths else []
        return [[place for place, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]

    def _inputs(self, encodings: Sequence[Encoding]) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(self._network.parameters()).device
        longest = max(len(encoding.ids) for encoding in encodings)

        def padded(rows: Sequence[Sequence[int]]) -> Tensor:
            # 0 is in every vocabulary, and no token of a text sees it: it is of another segment.
            return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)

        more = {}
        has_types = hasattr(self._network.config, "num_token_types")
        if has_types and any(any(encoding.type_ids) for encoding in encodings):
            more["token_types"] = padded([encoding.type_ids for encoding in encodings])
        if any(len(encoding.ids) < longest for encoding in encodings):
            more["segments"] = padded([[1] * len(encoding.ids) for encoding in encodings])
        return padded([encoding.ids for encoding in encodings]), more
