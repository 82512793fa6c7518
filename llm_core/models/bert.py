"""The BERT family: a post-norm encoder that sees both ways (Devlin et al., 2019).

Parameters carry the names of the Hugging Face layout. Every call takes the ids (B, T), `segments` (see
``interface.Network``; positions begin anew in each, where Hugging Face counts padding on the left) and `token_types`,
0 or 1 for the first or second of a pair of texts.
Dimensions: B batch, T tokens, C width, H heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.config import Model
from llm_core.models.attention import attend, positions_of, same_segment
from llm_core.models.heads import DEFAULT_LABELS, labels_from_json, labels_to_json, mean_of_text, numbered_labels
from llm_core.models.interface import LanguageModel, Network, Output, OutputHead, through

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


STORED_POSITIONS = ("embeddings.position_ids",)
PAIR_HEADS = ("cls.seq_relationship.weight", "cls.seq_relationship.bias")
"""The original pretraining's second task, whether two sentences follow each other."""
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


@dataclass(frozen=True)
class BertConfig:
    """Shape of a BERT; `from_json` and `to_json` speak the Hugging Face names."""

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    context: int
    num_token_types: int = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12
    end_id: int | None = None
    pad_id: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    head_dropout: float | None = None
    """Dropout before a classifier; none takes `dropout`."""
    labels: tuple[str, ...] = DEFAULT_LABELS

    @property
    def head_size(self) -> int:
        return self.width // self.num_heads

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, but for the architecture."""
        return {
            "model_type": "bert",
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.width,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.mlp_width,
            "max_position_embeddings": self.context,
            "type_vocab_size": self.num_token_types,
            "hidden_act": self.activation,
            "layer_norm_eps": self.norm_eps,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": self.end_id,
            "pad_token_id": self.pad_id,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.attention_dropout,
            "classifier_dropout": self.head_dropout,
            "dtype": "float32",
            **labels_to_json(self.labels),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BertConfig:
        """Read ``config.json``; a setting this implementation would silently ignore is an error naming it."""
        allowed = {
            "hidden_act": ("gelu", tuple(ACTIVATIONS)),
            "position_embedding_type": ("absolute", ("absolute",)),
            "tie_word_embeddings": (True, (True,)),
            "is_decoder": (False, (False,)),
            "add_cross_attention": (False, (False,)),
        }
        for key, (default, supported) in allowed.items():
            if (value := values.get(key, default)) not in supported:
                raise ValueError(
                    f"{key} {value!r} is not supported by this BERT, only {', '.join(map(str, supported))}"
                )
        return cls(
            vocab_size=values["vocab_size"],
            num_layers=values["num_hidden_layers"],
            width=values["hidden_size"],
            num_heads=values["num_attention_heads"],
            mlp_width=values["intermediate_size"],
            context=values["max_position_embeddings"],
            num_token_types=values.get("type_vocab_size", 2),
            activation=values.get("hidden_act", "gelu"),
            norm_eps=values.get("layer_norm_eps", 1e-12),
            end_id=values.get("eos_token_id"),
            pad_id=values.get("pad_token_id", 0),
            dropout=values.get("hidden_dropout_prob", 0.1),
            attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
            head_dropout=values.get("classifier_dropout"),
            labels=labels_from_json(values),
        )


def from_recipe(architecture: Model, vocab_size: int, end_id: int, num_labels: int = 2) -> BertConfig:
    """The config of a recipe's shape; the end-of-text id pads too."""
    return BertConfig(
        vocab_size=vocab_size,
        num_layers=architecture.num_layers,
        width=architecture.width,
        num_heads=architecture.num_heads,
        mlp_width=architecture.mlp_width,
        context=architecture.context,
        end_id=end_id,
        pad_id=end_id,
        dropout=architecture.dropout,
        attention_dropout=architecture.dropout,
        labels=numbered_labels(num_labels),
    )


class Embeddings(nn.Module):
    """The sum of a token's, its position's and its type's vectors, normalised (Devlin et al., 2019, figure 2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width)
        self.position_embeddings = nn.Embedding(config.context, config.width)
        self.token_type_embeddings = nn.Embedding(config.num_token_types, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, segments: Tensor | None, token_types: Tensor | None) -> Tensor:
        T, context = input_ids.shape[1], self.position_embeddings.num_embeddings
        if context < T:
            raise ValueError(f"{T} tokens do not fit: the model reads {context}; give it fewer")
        places = self.position_embeddings.weight[:T] if segments is None else self._positions(segments)
        types = self.token_type_embeddings.weight[0] if token_types is None else self.token_type_embeddings(token_types)
        return self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + types + places))

    def _positions(self, segments: Tensor) -> Tensor:
        return self.position_embeddings(positions_of(segments))


class SelfAttention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017, section 3.2.2), each token to all of its segment."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.head_size, self.dropout = config.head_size, config.attention_dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)  # (B, H, T, D)
            for project in (self.query, self.key, self.value)
        )
        y = attend(q, k, v, causal=False, mask=mask, dropout=self.dropout if self.training else 0.0)
        return y.transpose(1, 2).flatten(2)


class AddAndNorm(nn.Module):
    """The last product of a sublayer, added to the sublayer's input and normalised: ``norm(x + dense(y))``."""

    def __init__(self, config: BertConfig, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dropout(self.dense(y)))


class Attention(nn.Module):
    """The attention sublayer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config, config.width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.output(self.self(x, mask), x)


class Activated(nn.Module):
    """``activation(dense(x))``."""

    def __init__(self, config: BertConfig, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, outputs)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class Block(nn.Module):
    """One encoder layer: attention and feed-forward (Vaswani et al., 2017, section 3.3, with GELU)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Activated(config, config.mlp_width)
        self.output = AddAndNorm(config, config.mlp_width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Pooler(nn.Module):
    """``tanh(dense(x))`` of the text's first token, which stands for the whole text."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, segments: Tensor | None) -> Tensor:
        if segments is None:
            first = x[:, 0]
        else:  # behind padding on the left the text's first token is not the row's
            first = x[torch.arange(len(x), device=x.device), (segments > 0).int().argmax(dim=1)]
        return torch.tanh(self.dense(first))


class Encoder(nn.Module):
    """The blocks."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.recompute = False
        self.layer = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return through(self.layer, x, mask, recompute=self.recompute)


class Body(nn.Module):
    """Embeddings and blocks: token ids to states (B, T, C); the pooler belongs to it where a task reads it."""

    def __init__(self, config: BertConfig, pools: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        if pools:
            self.pooler = Pooler(config)

    def states(self, input_ids: Tensor, segments: Tensor | None = None, token_types: Tensor | None = None) -> Tensor:
        """The last states (B, T, C)."""
        mask = None if segments is None else same_segment(segments, segments)
        return self.encoder(self.embeddings(input_ids, segments, token_types), mask)


class BertNetwork(Network):
    """What all tasks share: how the weights begin."""

    config: BertConfig
    body = "bert"
    not_weights: ClassVar[tuple[str, ...]] = (*STORED_POSITIONS, *PAIR_HEADS)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew: a pure function of the shapes and `seed`, on any device.

        All matrices have the published spread of 0.02. The word embedding is the head too, and a narrow one keeps the
        first losses at log V; the norm behind the embeddings makes its input side indifferent to the size. So it wants
        the low rate of a tied embedding. Under post-norm each block's output is normalised again, so that matrices
        need no factor for the depth.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


class Transform(Activated):
    """``norm(activation(dense(x)))``."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(super().forward(x))


class Predictions(nn.Module):
    """The head of the masked language model: a transform, then the product with the embedding, and a bias."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.width, config.vocab_size)
        self.bias = self.decoder.bias  # the layout's second name of it


class BertForMaskedLM(BertNetwork, LanguageModel):
    """The language model that fills in masked tokens."""

    architecture = "BertForMaskedLM"
    not_weights = (*BertNetwork.not_weights, *POOLER)
    task = "masked_lm"
    untrained_heads = ("cls.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Body(config)
        self.cls = nn.ModuleDict({"predictions": Predictions(config)})
        self._head.decoder.weight = self.bert.embeddings.word_embeddings.weight

    @property
    def _head(self) -> Predictions:
        head = self.cls["predictions"]
        assert isinstance(head, Predictions)
        return head

    def features(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """The transformed states (B, T, C), which the last product reads; the arguments are those of `Body.states`."""
        return self._head.transform(self.bert.states(input_ids, **inputs))

    def output_head(self) -> OutputHead:
        """The live weight, which is the embedding, and bias of the last product."""
        return OutputHead(self._head.decoder.weight, self._head.bias)


class BertModel(Body, BertNetwork):
    """The encoder as an embedder: the mean of a text's states, padding left out, not scaled to length 1.

    Its pooler is kept for the layout's sake and takes part in nothing.
    """

    architecture = "BertModel"
    body = ""
    task = "embedding"
    untrained_heads = ("pooler.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, pools=True)
        self.pooler.requires_grad_(False)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None, token_types: Tensor | None = None) -> Output:
        """Vectors (B, C) of the ids (B, T)."""
        return Output(mean_of_text(self.states(input_ids, segments, token_types), segments))


class _Classifier(BertNetwork):
    """A body, dropout and one linear layer."""

    untrained_heads: ClassVar[tuple[str, ...]] = ("classifier.",)
    pools: ClassVar[bool] = False

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Body(config, pools=self.pools)
        self.dropout = nn.Dropout(config.dropout if config.head_dropout is None else config.head_dropout)
        self.classifier = nn.Linear(config.width, len(config.labels))


class BertForSequenceClassification(_Classifier):
    """One label a text, from the pooler."""

    architecture = "BertForSequenceClassification"
    task = "sequence_classification"
    untrained_heads = ("classifier.", "bert.pooler.")
    pools: ClassVar[bool] = True

    def forward(self, input_ids: Tensor, segments: Tensor | None = None, token_types: Tensor | None = None) -> Output:
        """Logits (B, labels)."""
        pooled = self.bert.pooler(self.bert.states(input_ids, segments, token_types), segments)
        return Output(self.classifier(self.dropout(pooled)))


class BertForTokenClassification(_Classifier):
    """A label for each token."""

    architecture = "BertForTokenClassification"
    not_weights = (*BertNetwork.not_weights, *POOLER)
    task = "token_classification"

    def forward(self, input_ids: Tensor, segments: Tensor | None = None, token_types: Tensor | None = None) -> Output:
        """Logits (B, T, labels)."""
        return Output(self.classifier(self.dropout(self.bert.states(input_ids, segments, token_types))))


class BertForQuestionAnswering(BertNetwork):
    """Where the answer begins and ends; question and text are a pair with token types 0 and 1."""

    architecture = "BertForQuestionAnswering"
    not_weights = (*BertNetwork.not_weights, *POOLER)
    task = "question_answering"
    untrained_heads = ("qa_outputs.",)

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = replace(config, labels=DEFAULT_LABELS)  # the layout counts begin and end as two labels
        self.bert = Body(config)
        self.qa_outputs = nn.Linear(config.width, 2)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None, token_types: Tensor | None = None) -> Output:
        """Logits (B, T, 2) of each token to be the first and the last of the answer."""
        return Output(self.qa_outputs(self.bert.states(input_ids, segments, token_types)))
