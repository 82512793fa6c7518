"""Recipe sections from the model on: its architecture, its fit, its scores, and how it comes to serve."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llm_core.config.section import NAME_PATTERN, Section


class Model(Section):
    """The architecture of the network."""

    family: Literal["llama"] = "llama"
    """Model family; llama is a pre-norm decoder with RMSNorm, RoPE, SwiGLU and grouped-query attention."""
    num_layers: int = Field(default=4, ge=1)
    """Decoder blocks."""
    width: int = Field(default=256, ge=8)
    """Size of the residual stream."""
    num_heads: int = Field(default=2, ge=1)
    """Query heads of each attention layer."""
    num_kv_heads: int = Field(default=2, ge=1)
    """Key and value heads; fewer than num_heads shares them between query heads."""
    mlp_width: int = Field(default=768, ge=8)
    """Hidden size of the feed-forward layers."""
    context: int = Field(default=256, ge=8)
    """Longest sequence, in tokens."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary position frequencies."""
    tie_embeddings: bool = False
    """Use the input embedding as the output head."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Model:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if (self.width // self.num_heads) % 2:
            raise ValueError(f"width / num_heads = {self.width // self.num_heads} must be even for rotary positions")
        return self


class Train(Section):
    """How the network is fitted."""

    steps: int = Field(default=500, ge=1)
    """Optimizer steps."""
    batch_tokens: int = Field(default=2048, ge=8)
    """Tokens of one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """How the hidden matrices are fitted; embedding, head and norms are always AdamW's."""
    lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the hidden matrices, on AdamW's scale for both optimizers."""
    embedding_lr: float = Field(default=0.1, gt=0)
    """Peak learning rate of the input embedding, which starts with a spread of 1; tied to the head it wants a tenth."""
    head_lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the output head, where it is not the embedding."""
    norm_lr: float = Field(default=3e-3, gt=0)
    """Peak learning rate of the norms' gains."""
    warmup_steps: int = Field(default=20, ge=0)
    """Steps over which the rate rises from zero."""
    decay_share: float = Field(default=0.7, ge=0, le=1)
    """Last share of the steps, over which the rate falls to zero."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of the hidden matrices."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the forward and backward pass; auto takes bfloat16 where the hardware multiplies it natively."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 takes all cores. Recorded with the model, since it changes the last bits."""
    validate_every: int = Field(default=100, ge=1)
    """Steps between two validation losses."""
    validation_tokens: int = Field(default=32_768, ge=1)
    """At most this many tokens of the validation split go into a validation loss."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept on disk."""


class Evaluate(Section):
    """How the held-out documents are scored."""

    stride: int = Field(default=128, ge=1)
    """Tokens scored by one window; the rest of the context before them is only read."""
    batch_windows: int = Field(default=8, ge=1)
    """Windows scored at once."""
    prompts: tuple[str, ...] = ("Fellow citizens of the Senate and House of Representatives:", "The state of our union")
    """Beginnings that the model continues as sample texts."""
    sample_tokens: int = Field(default=60, ge=1)
    """Length of each sample text."""


class Register(Section):
    """Under which name complete models are registered."""

    line: str = Field(default="demo", pattern=NAME_PATTERN)
    """The line (registered model name) that the version joins; each line has its own champion."""


class Gate(Section):
    """When a challenger replaces the champion."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided risk of promoting a model that is not better."""
    resamples: int = Field(default=10_000, ge=100)
    """Bootstrap resamples of the held-out documents."""
    min_documents: int = Field(default=30, ge=2)
    """With fewer held-out documents the outcome is needs_person."""
    min_gain: float = Field(default=0.0, ge=0)
    """Bits per byte the challenger must gain at least."""


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
