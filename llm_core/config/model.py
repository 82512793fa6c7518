"""Recipe sections from the model on: its architecture, its fit, its scores, and how it comes to serve."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from llm_core.config.section import NAME_PATTERN, VERSION_PATTERN, Section
from llm_core.config.suites import SuiteSpec


class Model(Section):
    """The architecture of the network."""

    family: Literal["llama", "gpt2", "bert", "t5", "transformer", "lstm"] = "llama"
    """llama, gpt2: decoders; bert: an encoder; t5, transformer: encoder-decoders; lstm: the recurrent baseline."""
    num_layers: int = Field(default=4, ge=1)
    """Blocks; an encoder-decoder has this many on each side."""
    width: int = Field(default=256, ge=8)
    """Size of the residual stream; of an lstm, of its state."""
    num_heads: int = Field(default=2, ge=1)
    """Query heads of each attention layer; an lstm has none."""
    num_kv_heads: int = Field(default=2, ge=1)
    """Key and value heads of a llama; fewer than num_heads shares them. Elsewhere each query head has its own."""
    mlp_width: int = Field(default=768, ge=8)
    """Hidden size of the feed-forward layers; an lstm has none."""
    context: int = Field(default=256, ge=8)
    """Longest sequence, in tokens."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of a llama's rotary position frequencies."""
    qk_norm: bool = False
    """Normalise a llama's queries and keys, as Qwen3 does."""
    attention_bias: bool = False
    """Biases on a llama's query, key and value projections, as Qwen2 has them."""
    tie_embeddings: bool = False
    """Use the input embedding as the output head; gpt2, bert and t5 always do."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations that are dropped while training."""

    @property
    def writes_text(self) -> bool:
        """Whether a model of this family answers a prompt, so that it can be served."""
        return self.family != "bert"

    @property
    def goes_on(self) -> bool:
        """Whether it predicts what stands behind a text, so that suites can ask it."""
        return self.family in ("llama", "gpt2", "lstm")

    @model_validator(mode="after")
    def _shapes_fit(self) -> Model:
        if self.family == "lstm":
            return self
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.family == "llama":
            self._llama_fits()
        return self

    def _llama_fits(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if (self.width // self.num_heads) % 2:
            raise ValueError(f"width / num_heads = {self.width // self.num_heads} must be even for rotary positions")


class Train(Section):
    """How the network is fitted."""

    steps: int = Field(default=600, ge=1)
    """Optimizer steps."""
    stop_after: int = Field(default=0, ge=0)
    """End after this step, on the schedule of all `steps`: how a run that a budget ended is built again; 0 does not."""
    epochs: float = Field(default=0.0, ge=0)
    """Passes over the training tokens, instead of `steps`; 0 leaves it to `steps`."""
    start: Literal["scratch", "champion", "version", "folder"] = "scratch"
    """Weights to begin with: random ones, the line's champion's (without one, random), a version's, a folder's."""
    start_name: str = ""
    """LINE@VERSION or the model folder to start from; filled in for champion when the run's recipe is resolved."""
    start_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Digest of those weights; filled in when the run's recipe is resolved."""
    batch_tokens: int = Field(default=2048, ge=8)
    """Tokens of one optimizer step."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Tokens that go through the network at once, less than batch_tokens to save memory; 0 takes the whole batch."""
    batch_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the batch grows to its full size."""
    sequence_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which sequences grow to the whole context, at the same tokens in a batch."""
    document_mask: bool = False
    """Tokens see only tokens of their own document, where several lie in one sequence."""
    objective: Literal["auto", "causal", "masked", "span"] = "auto"
    """Predict the next token, masked tokens, or spans that were cut out; auto takes the family's own."""
    mask_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens that the objectives masked and span hide."""
    span_tokens: float = Field(default=3.0, ge=1)
    """Mean length of a span that was cut out."""
    optimizer: Literal["adamw", "muon", "adam", "sgd"] = "adamw"
    """How the hidden matrices are fitted; with muon and adamw, embedding, head and vectors are AdamW's."""
    lr: float = Field(default=2e-3, gt=0)
    """Peak learning rate of the hidden matrices, on AdamW's scale for muon too."""
    embedding_lr: float = Field(default=0.1, gt=0)
    """Peak learning rate of the input embedding, which starts with a spread of 1; tied to the head it wants a tenth."""
    head_lr: float = Field(default=1e-2, gt=0)
    """Peak learning rate of the output head, where it is not the embedding."""
    norm_lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the vectors: the norms' gains and all biases."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """After the warmup: stable and then linear decay, a cosine's half wave down, or no change."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps over which the rate rises from zero."""
    decay_share: float = Field(default=0.7, ge=0, le=1)
    """Last share of the steps, over which the schedule wsd lets the rate fall."""
    final_lr_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak rates at which a decay ends."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of the hidden matrices (adam and sgd: added to the gradient)."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target's probability that is spread over the vocabulary."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log of the softmax's sum in the loss, which keeps logits from drifting."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a running mean of the weights, which is then what is validated and saved; 0 keeps none."""
    bad_steps: Literal["stop", "skip", "rewind"] = "stop"
    """At a loss or gradient that is not finite, or a spike: end, leave the batch out, or return to a checkpoint too."""
    spike_factor: float = Field(default=0.0, ge=0)
    """A loss above this many times the median of the last steps is a spike; 0 looks for none."""
    max_bad_steps: int = Field(default=10, ge=1)
    """With skip and rewind: training ends at the next bad step after this many."""
    patience: int = Field(default=0, ge=0)
    """End after this many validations without a better loss, with the best one's weights; 0 never does."""
    max_minutes: float = Field(default=0.0, ge=0)
    """End at the first step's edge after this time, with what was learned until then; 0 sets no limit."""
    max_cost: float = Field(default=0.0, ge=0)
    """End when this much is spent, at cost_per_hour; 0 sets no limit."""
    cost_per_hour: float = Field(default=0.0, ge=0)
    """Price of an hour of this machine, in the currency of max_cost."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the forward and backward pass; auto takes bfloat16 where the hardware multiplies it natively."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the network's forward and backward pass; auto does where the run is long enough to pay for it."""
    recompute: bool = False
    """Compute the blocks' inner states again in the backward pass: a third more time, much less memory."""
    threads: int = Field(default=0, ge=0)
    """CPU threads, recorded since they change the last bits; 0 takes all cores, or OMP_NUM_THREADS of them."""
    distributed: Literal["none", "ddp", "fsdp"] = "none"
    """Several processes: each with the whole network (ddp) or with a part of its weights (fsdp)."""
    ranks: int = Field(default=1, ge=1)
    """Processes of a distributed training on this machine."""
    max_restarts: int = Field(default=0, ge=0)
    """How often a distributed training begins again from its checkpoint when a process died."""
    validate_every: int = Field(default=100, ge=1)
    """Steps between two validation losses."""
    validate_epochs: float = Field(default=0.0, ge=0)
    """Epochs between two validation losses, instead of validate_every; 0 leaves it to that."""
    validation_tokens: int = Field(default=32_768, ge=1)
    """At most this many tokens of the validation split go into a validation loss."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept on disk; the best one is kept besides."""

    @model_validator(mode="after")
    def _start_is_named(self) -> Train:
        if self.start in ("version", "folder") and not self.start_name:
            raise ValueError(f"start: {self.start} needs train.start_name, LINE@VERSION or the place of a model folder")
        return self

    @model_validator(mode="after")
    def _settings_agree(self) -> Train:
        if self.micro_batch_tokens and self.batch_tokens % self.micro_batch_tokens:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of micro_batch_tokens {self.micro_batch_tokens}"
            )
        if self.max_cost and not self.cost_per_hour:
            raise ValueError(f"max_cost {self.max_cost} needs cost_per_hour, the price of an hour of the machine")
        if self.ranks > 1 and self.distributed == "none":
            raise ValueError(f"ranks {self.ranks} needs distributed: ddp or fsdp")
        return self


class Evaluate(Section):
    """How the held-out documents are scored."""

    stride: int = Field(default=128, ge=1)
    """Tokens scored by one window; the rest of the context before them is only read."""
    batch_windows: int = Field(default=8, ge=1)
    """Windows scored at once."""
    prompts: tuple[str, ...] = ("Fellow citizens of the Senate and House of Representatives:", "The state of our union")
    """Beginnings that the model continues as sample texts."""
    explained: tuple[str, ...] = ()
    """Texts whose next token is explained on a page in MLflow; without any, the first prompt."""
    sample_tokens: int = Field(default=60, ge=1)
    """Length of each sample text."""
    suites: tuple[SuiteSpec, ...] = ()
    """What else the model is asked; guards of the gate name them."""

    @model_validator(mode="after")
    def _suites_have_names_of_their_own(self) -> Evaluate:
        names = [suite.title for suite in self.suites]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"suites: {', '.join(twice)} stands there more than once; give each a name")
        return self


class Register(Section):
    """Under which name complete models are registered."""

    line: str = Field(default="demo", pattern=NAME_PATTERN)
    """The line (registered model name) that the version joins; each line has its own champion."""


class Guard(Section):
    """Scores that a new champion may not lose much of, whatever it gains elsewhere."""

    suite: str = Field(default="documents", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Suite of the report whose examples are compared, in pairs."""
    score: str = Field(default="bits", pattern=r"^[a-z][a-z0-9_]*$")
    """Column of the examples' scores."""
    over: str = Field(default="", pattern=r"^([a-z][a-z0-9_]*)?$")
    """Column that the scores' sum is divided by, as num_bytes; empty for their mean."""
    margin: float = Field(gt=0)
    """How much worse it may be; the comparison has to show that it is not worse by more."""
    less_is_better: bool = False
    """Whether low scores are good ones."""
    each_slice: bool = False
    """Compare each slice by itself (of documents: each folder of sources)."""


class Gate(Section):
    """When a challenger replaces the champion."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Risk of promoting any model that is not better, over all nights of a horizon."""
    horizon_nights: int = Field(default=365, ge=1, le=10_000)
    """Decisions of a line that share one alpha; 1 gives each of them all of it."""
    resamples: int = Field(default=10_000, ge=100)
    """Resamples of the held-out documents, at least; more are drawn where the night's share of alpha needs them."""
    min_documents: int = Field(default=30, ge=2)
    """With fewer held-out documents the outcome is needs_person."""
    min_gain: float = Field(default=0.0, ge=0)
    """Bits per byte the challenger must gain at least."""
    guards: tuple[Guard, ...] = (
        Guard(suite="documents", score="bits", over="num_bytes", margin=0.05, less_is_better=True, each_slice=True),
        Guard(suite="anchor", score="bits", over="num_bytes", margin=0.05, less_is_better=True),
    )
    """What may not get worse: no source of the held-out documents, nor what past champions did well (the anchor).

    Empty guards nothing."""
    anchor_documents: int = Field(default=64, ge=0)
    """Held-out documents that the line's champions were good at and that are kept for its anchor, at most."""
    references: tuple[Annotated[str, Field(pattern=VERSION_PATTERN)], ...] = ()
    """Models to show beside the decision, each as LINE (its champion) or LINE@VERSION; they decide nothing."""
    max_bytes: int = Field(default=0, ge=0)
    """Largest size of a champion's files; 0 is no limit."""
    max_milliseconds: float = Field(default=0.0, ge=0)
    """Longest that a champion may take for a token (95th percentile, on the machine that registers); 0 is no limit."""
    max_memory_bytes: int = Field(default=0, ge=0)
    """Most memory that a champion may take to serve; 0 is no limit."""

    def rule(self) -> dict[str, Any]:
        """What a decision depends on."""
        return self.model_dump(exclude={"references"})


class Deploy(Section):
    """The model server that the champion is put into."""

    port: int = Field(default=8000, ge=1, le=65535)
    """Port of the model server on 127.0.0.1."""
    prompt: str = "Fellow citizens of the Senate and House of Representatives:"
    """The request that proves that the new champion answers."""
    max_tokens: int = Field(default=60, ge=1)
    """Length of that answer."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """How long the server may take to serve the new champion."""
    canary_percent: float = Field(default=0.0, ge=0, le=50)
    """Share of the askers, in percent, that a better version answers before it is champion; 0 promotes at once."""
    canary_shadow: bool = False
    """The champion goes on to answer all; the new version gets copies of that share and its answers are thrown away."""
    canary_minutes: float = Field(default=60.0, gt=0, le=1440)
    """How long a run waits for the server's verdict; with too little traffic until then the gate's word counts."""
    canary_min_requests: int = Field(default=50, ge=1)
    """Answers of the new version before it is compared first; it has passed after four times as many."""
    canary_alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Risk of reverting a version that is not worse, over all comparisons."""
    canary_max_slowdown: float = Field(default=1.5, ge=1)
    """How many times the champion's its times may be."""
    canary_max_loss: float = Field(default=0.01, ge=0)
    """How many bits per byte more it may need for users' texts."""
