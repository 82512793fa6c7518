"""A decoder's step in machine code: rows of many sequences at once, keys and values in blocks.

Dimensions: M rows (a token of a sequence each), W rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int, c_int32, c_void_p
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from llm_core.kernels.build import FLAGS, library
from llm_core.models.rotary import BY_LENGTH

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
BLOCK_TOKENS = 16
"""Tokens whose keys and values lie together."""
NORMS = {"rms": 0, "layer": 1}
ACTIVATIONS = {"swiglu": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu": 2, "relu": 3}


class _Shape(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("vocab_size", "num_layers", "width", "num_heads", "num_kv_heads", "head_size")),
        *((name, c_int32) for name in ("mlp_width", "context", "precision", "norm", "activation", "num_blocks")),
        ("norm_eps", c_float),
    ]


class _Step(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("num_rows", "num_wanted", "table_width")),
        *((name, c_void_p) for name in ("ids", "positions", "sequences", "tables", "wanted")),
        *((name, c_void_p) for name in ("logits", "likeliest", "logsumexp")),
    ]


class Rows(NamedTuple):
    """The tokens that a step reads, each behind what its text's blocks hold; all int32.

    Rows of one text are in order and without gaps.
    """

    ids: np.ndarray
    """(M)."""
    positions: np.ndarray
    """(M): places in their texts."""
    texts: np.ndarray
    """(M): which table is theirs."""
    tables: np.ndarray
    """(texts, blocks): the blocks of each text in order."""


class StepResult(NamedTuple):
    """What a step tells of the wanted rows."""

    logits: np.ndarray
    """(W, V), float32."""
    likeliest: np.ndarray
    """(W): the first of the largest logits."""
    logsumexp: np.ndarray
    """(W): what turns a logit into a log-probability; not finite where the model's output is not."""


def is_supported(network: nn.Module) -> bool:
    """Whether this network can be run by the kernel: a Llama, one of its relatives or a GPT-2, on a CPU."""
    if type(network).__name__ not in ("LlamaForCausalLM", "GPT2LMHeadModel"):
        return False
    config: Any = network.config
    if next(network.parameters()).device.type != "cpu":
        return False
    scaling = getattr(config, "rope_scaling", {})
    return scaling.get("rope_type") not in BY_LENGTH and getattr(config, "activation", "gelu") in ACTIVATIONS


def block_bytes(config: Any, precision: Precision) -> int:
    """Memory of one block's keys and values over all layers."""
    shape = _shape(config, 0, precision)
    padded = -(-shape.head_size // BLOCK_TOKENS) * BLOCK_TOKENS
    number = 4 if precision == "float32" else 2
    return 2 * shape.num_layers * shape.num_kv_heads * BLOCK_TOKENS * padded * number


class NativeDecoder:
    """Packed weights and a pool of key/value blocks; one thread at a time may step it.

    In float32 and bfloat16 a row's result is the same to the bit whatever else is in the step; so it is in int8, where
    each row of activations has a scale of its own.
    """

    def __init__(
        self, network: nn.Module, num_blocks: int, precision: Precision = "float32", flags: tuple[str, ...] = FLAGS
    ) -> None:
        assert is_supported(network)
        config: Any = network.config
        self._library = _declared(flags)
        self.vocab_size: int = config.vocab_size
        self.num_blocks, self.precision = num_blocks, precision
        shape = _shape(config, num_blocks, precision)
        self._handle = self._library.decoder_new(byref(shape))
        if not self._handle:
            raise MemoryError(self._library.decoder_problem().decode())
        self._finalizer = weakref.finalize(self, self._library.decoder_free, self._handle)
        bits = {"float32": 32, "bfloat16": 16, "int8": 8}[precision]
        self.num_bytes = num_blocks * block_bytes(config, precision)
        """Memory of packed weights and of all blocks; the system gives a block's when it is first written to."""
        for name, layer, tensor in _weights(network):
            self._set(name, layer, tensor)
            self.num_bytes += tensor.numel() * (bits if tensor.dim() == 2 and name != "tokens" else 32) // 8

    def step(self, rows: Rows, wanted: np.ndarray, threads: int = 1) -> StepResult:
        """Read the rows' tokens; give the logits of those whose numbers are `wanted` (W), ascending and int32."""
        for array in (*rows, wanted):
            assert array.dtype == np.int32 and array.flags.c_contiguous
        logits = np.empty((len(wanted), self.vocab_size), np.float32)
        likeliest, logsumexp = np.empty(len(wanted), np.int32), np.empty(len(wanted), np.float32)
        arrays = (*rows, wanted, logits, likeliest, logsumexp)
        step = _Step(len(rows.ids), len(wanted), rows.tables.shape[1], *(array.ctypes.data for array in arrays))
        if self._library.decoder_run(self._handle, byref(step), threads):
            raise MemoryError(self._library.decoder_problem().decode())
        return StepResult(logits, likeliest, logsumexp)

    def free(self) -> None:
        """Give the memory back now; the decoder cannot be used any more."""
        self._finalizer()

    def _set(self, name: str, layer: int, tensor: Tensor) -> None:
        values = tensor.detach().float().contiguous()
        rows, columns = (1, values.numel()) if values.dim() < 2 else values.shape
        if self._library.decoder_set(self._handle, name.encode(), layer, values.data_ptr(), rows, columns):
            raise ValueError(self._library.decoder_problem().decode())


@cache
def _declared(flags: tuple[str, ...]) -> ctypes.CDLL:
    found = library("decoder", flags)
    found.decoder_new.argtypes, found.decoder_new.restype = [POINTER(_Shape)], c_void_p
    found.decoder_free.argtypes, found.decoder_free.restype = [c_void_p], None
    found.decoder_set.argtypes = [c_void_p, c_char_p, c_int, c_void_p, c_int, c_int]
    found.decoder_run.argtypes = [c_void_p, POINTER(_Step), c_int]
    found.decoder_problem.restype = c_char_p
    return found


def _shape(config: Any, num_blocks: int, precision: Precision) -> _Shape:
    is_llama = hasattr(config, "rope_theta")
    return _Shape(
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        width=config.width,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads if is_llama else config.num_heads,
        head_size=config.head_size,
        mlp_width=config.mlp_width,
        context=config.context,
        precision=PRECISIONS.index(precision),
        norm=NORMS["rms" if is_llama else "layer"],
        activation=ACTIVATIONS["swiglu" if is_llama else config.activation],
        num_blocks=num_blocks,
        norm_eps=config.norm_eps,
    )


Named = tuple[str, int, Tensor]


def _weights(network: Any) -> Iterator[Named]:
    """All weights under the kernel's names, each with its layer."""
    yield "head", 0, network.output_head().weight
    is_llama = hasattr(network.config, "rope_theta")
    yield from _llama_weights(network.model) if is_llama else _gpt2_weights(network.transformer)


def _llama_weights(decoder: Any) -> Iterator[Named]:
    config = decoder.config
    yield from (("tokens", 0, decoder.embed_tokens.weight), ("norm", 0, decoder.norm.weight))
    yield from (("cos", 0, decoder.cos), ("sin", 0, decoder.sin))
    for i, block in enumerate(decoder.layers):
        attention, mlp = block.self_attn, block.mlp
        yield "attention.norm", i, block.input_layernorm.weight
        yield from _linear("attention.qkv", i, (attention.q_proj, attention.k_proj, attention.v_proj))
        yield from _linear("attention.out", i, (attention.o_proj,))
        if attention.qk_norm:
            yield from (
                ("attention.q_norm", i, attention.q_norm.weight),
                ("attention.k_norm", i, attention.k_norm.weight),
            )
        if window := config.window_of(i):
            yield "attention.window", i, torch.tensor([float(window)])
        yield "mlp.norm", i, block.post_attention_layernorm.weight
        yield from _linear("mlp.up", i, (mlp.gate_proj, mlp.up_proj))
        yield from _linear("mlp.down", i, (mlp.down_proj,))


def _linear(name: str, layer: int, projections: Sequence[nn.Linear]) -> Iterator[Named]:
    """Projections of one input as one product; weights (outputs, inputs)."""
    yield name, layer, torch.cat(tuple(projection.weight for projection in projections))
    biases = tuple(projection.bias for projection in projections if projection.bias is not None)
    if biases:
        yield f"{name}_bias", layer, torch.cat(biases)


def _gpt2_weights(decoder: Any) -> Iterator[Named]:
    yield from (("tokens", 0, decoder.wte.weight), ("places", 0, decoder.wpe.weight))
    yield from (("norm", 0, decoder.ln_f.weight), ("norm_bias", 0, decoder.ln_f.bias))
    for i, block in enumerate(decoder.h):
        yield from (("attention.norm", i, block.ln_1.weight), ("attention.norm_bias", i, block.ln_1.bias))
        yield from (("mlp.norm", i, block.ln_2.weight), ("mlp.norm_bias", i, block.ln_2.bias))
        products = {
            "attention.qkv": block.attn.c_attn,
            "attention.out": block.attn.c_proj,
            "mlp.up": block.mlp.c_fc,
            "mlp.down": block.mlp.c_proj,
        }
        for name, linear in products.items():  # stored (inputs, outputs)
            yield from ((name, i, linear.weight.mT), (f"{name}_bias", i, linear.bias))
