"""Requests and replies of the routes that are not OpenAI's: reading a text, and making one text of another."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from llm_core.generate import Beams, Sampling
from llm_core.serving.body import MAX_CHARACTERS, Body
from llm_core.serving.reply_schema import Part, ReadUsage
from llm_core.serving.schema import MAX_ANSWERS, NotEmpty, StopText, StreamOptions

MAX_TEXTS = 256
"""Texts of one request that are classified."""
Text = Annotated[str, Field(pattern=r"\S")]
"""Something must stand in it."""


class Pair(Body):
    """Two texts that are read together, such as a premise and a hypothesis."""

    text: NotEmpty
    text_pair: NotEmpty


class ClassifyRequest(Body):
    """POST /v1/classify."""

    model: str
    """NAME or NAME@VERSION of the model, as /v1/models lists it."""
    input: NotEmpty | Pair | Annotated[list[NotEmpty | Pair], Field(min_length=1, max_length=MAX_TEXTS)]
    """A text or a pair of texts, or several of them; pairs only for classifiers of whole texts."""
    top_k: int = Field(default=1, ge=1, le=1024)
    """So many of the likeliest labels of each text, of a classifier of whole texts."""
    aggregation_strategy: Literal["none", "simple"] = "simple"
    """Whether neighbouring tokens of one kind are one entity, of a classifier of tokens."""

    @property
    def inputs(self) -> list[str | Pair]:
        """The texts, one or several."""
        return self.input if isinstance(self.input, list) else [self.input]


class AnswerRequest(Body):
    """POST /v1/answer."""

    model: str
    """NAME or NAME@VERSION of the model, as /v1/models lists it."""
    question: Text
    context: Annotated[Text, Field(max_length=MAX_CHARACTERS)]
    """Where the answer is looked for; it may be longer than the model's context."""
    top_k: int = Field(default=1, ge=1, le=MAX_ANSWERS)
    """So many of the likeliest answers."""
    max_answer_len: int = Field(default=15, ge=1, le=512)
    """Longest answer in tokens."""


class RewriteRequest(Body):
    """POST /v1/translate and /v1/summarize."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"num_beams": {"minimum": 2, "type": "integer"}}, "required": ["num_beams"]},
            "then": {
                "properties": {
                    "stream": {"enum": [False, None]},
                    "temperature": {"enum": [0, None]},
                    "stop": {"enum": [[], None]},
                }
            },
        }
    )

    model: str
    """NAME or NAME@VERSION of the model, as /v1/models lists it."""
    input: NotEmpty | Annotated[list[NotEmpty], Field(min_length=1, max_length=MAX_ANSWERS)]
    """A text, or several."""
    prefix: str = ""
    """Put before each text, for models that are told so what to do ("translate English to German: ")."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest new text in tokens; the model's context ends it too."""
    num_beams: int = Field(default=1, ge=1, le=16)
    """Texts that are continued at a time; above 1 the likeliest whole text is searched, which cannot be streamed."""
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    """Of beam search: above 0 favours long texts."""
    early_stopping: bool = False
    """Of beam search: end as soon as there are num_beams whole texts."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Randomness of the choice; 0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Choose among the likeliest tokens that together have this probability."""
    top_k: int = Field(default=0, ge=0)
    """Choose among this many of the likeliest tokens; 0 for all."""
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    """Makes tokens of the new text less likely to come again; 1 changes nothing."""
    seed: int | None = None
    """Equal seeds and requests to one model version give equal texts."""
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] = Field(default=[])
    """Texts before which a new text ends; not with beam search."""
    stream: bool = False
    """Send the new texts as server-sent events while they are written."""
    stream_options: StreamOptions = StreamOptions()
    """What a stream tells besides text; only with stream."""

    @property
    def inputs(self) -> list[str]:
        """The texts, one or several."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def beams(self) -> Beams | None:
        """How whole texts are searched, where they are."""
        if self.num_beams == 1:
            return None
        return Beams(self.num_beams, self.length_penalty, self.early_stopping)

    def sampling(self, number: int) -> Sampling:
        """How the text of this number is drawn: from seeds that follow each other."""
        first = secrets.randbits(62) if self.seed is None else self.seed
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=(first + number) % 2**64,
        )

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        for key in ("stream", "stop", "temperature"):
            if self.num_beams > 1 and getattr(self, key):
                raise PydanticCustomError(
                    "invalid_value", "{param} is not supported with num_beams above 1", {"param": key}
                )
        return self


class ExplainRequest(Body):
    """POST /v1/explain."""

    model: str
    """NAME or NAME@VERSION of the model, as /v1/models lists it."""
    input: NotEmpty
    """The text that a classifier reads, or the prompt of a language model."""
    text_pair: NotEmpty | None = None
    """A classifier's second text."""
    target: NotEmpty | None = None
    """What is to be explained: a classifier's label, or how a language model goes on; the likeliest where none is
    given."""
    steps: int = Field(default=64, ge=2, le=256)
    """Points on the way from the baseline to the text; more are more exact."""
    baseline: Literal["pad", "zero", "mean"] = "pad"
    """What stands for "no token": padding's vector, zeros, or the mean of all tokens' vectors."""
    attention: bool = False
    """Also say where each token of the text looks; for texts of at most 128 tokens."""
    nearest: bool = False
    """Also look for the text and its continuation in the training documents, where the server was told to allow it."""


class TaskReply(Part):
    """What all replies tell."""

    model: str
    """The version that answered."""
    system_fingerprint: str
    """The same, where OpenAI's clients look for it."""


class Label(Part):
    """A label and its probability."""

    label: str
    score: float


class Entity(Part):
    """Something found in a text, with its place in characters."""

    entity: str
    score: float
    word: str
    start: int
    end: int


class Classified(Part):
    """What a text is."""

    index: int
    labels: list[Label]


class Tagged(Part):
    """What stands in a text."""

    index: int
    entities: list[Entity]


class ClassifyReply(TaskReply):
    """Labels of each text, or the entities in it."""

    object: Literal["list"] = "list"
    data: list[Classified] | list[Tagged]
    usage: ReadUsage


class Found(Part):
    """A part of the context that answers, with its place in characters."""

    answer: str
    score: float
    start: int
    end: int


class AnswerReply(TaskReply):
    """The likeliest answers, best first."""

    object: Literal["list"] = "list"
    data: list[Found]
    usage: ReadUsage


class TokenAttribution(Part):
    """A token that was read, and how much it spoke for the target."""

    token: str
    """As the vocabulary spells it."""
    text: str
    """The piece of the input that it stands for; empty where it is none."""
    start: int | None
    """Where the piece begins, in characters; none for tokens that are no part of a text."""
    end: int | None
    attribution: float
    """In nats of the target's log-probability; negative where it spoke against it."""


class AttentionHead(Part):
    """One head of a layer."""

    layer: int
    head: int
    weights: list[list[float]]


class AttentionMaps(Part):
    """Where tokens look: a row for each token of `tokens`, which sums to 1, a column for each that it looks at."""

    layers: list[list[list[float]]]
    """Of each layer the mean of its heads."""
    rollout: list[list[float]]
    """Through all layers (Abnar and Zuidema, 2020)."""
    heads: list[AttentionHead]
    """The few that look most sharply at something else than themselves or the first token."""


class TrainingPassage(Part):
    """A run of words that the text or its continuation shares with a training document."""

    num_words: int
    start: int
    """Where it stands in the text with its continuation, in characters."""
    end: int
    document: str
    """sha256 of the training document."""
    source: str
    first: int
    """Where it stands in the document, in characters."""
    last: int
    passage: str
    """The document's own words, with some around them."""


class ExplainReply(TaskReply):
    """How much each token spoke for the target (integrated gradients, Sundararajan et al., 2017)."""

    object: Literal["explanation"] = "explanation"
    target: str
    score: float
    """Log-probability of the target after the whole text."""
    baseline_score: float
    """The same with nothing in the tokens' places."""
    gap: float
    """Sum of the attributions less the difference of the scores: far from 0, take more steps."""
    tokens: list[TokenAttribution]
    attention: AttentionMaps | None = None
    passages: list[TrainingPassage] | None = None
    """The longest first; none where they were not asked for."""
    usage: ReadUsage
