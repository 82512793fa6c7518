"""Reading a GGUF file of the Llama family, llama.cpp's format, into a network of ours and a tokenizer.

Quantized weights become float32 again. The file's container and number formats are read by the `gguf` package, which
llama.cpp's own authors keep.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer
from torch import Tensor

from llm_core.models.folder import fill
from llm_core.models.interface import ModelError
from llm_core.models.llama import LlamaConfig, LlamaForCausalLM, Variant
from llm_core.tokenizer.byte_level import GPT2_PRE_TOKENS, GPT4_PRE_TOKENS
from llm_core.tokenizer.tokenizer import TOKENIZER, TOKENIZER_CONFIG

VARIANTS: Mapping[str, Variant] = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
QUANTIZATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
# Their name of a tensor -> Hugging Face's; those of layers stand behind blk.N and model.layers.N.
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3.1's stretched frequencies, a divisor for each pair
# Keys behind "llama." that are read here or only repeat the tensors' shapes.
KNOWN_KEYS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "vocab_size",
)
# How text is cut before merging, by the file's name of it; one cut after the other.
SINGLE_DIGITS = r"\p{N}"
CUTS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_PRE_TOKENS,),
    "llama-bpe": (GPT4_PRE_TOKENS,),
    "qwen2": (GPT4_PRE_TOKENS.replace(r"\p{N}{1,3}", SINGLE_DIGITS),),
    "smollm": (SINGLE_DIGITS, GPT2_PRE_TOKENS),
}
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens
PATTERN = "tidemill.tokenizer.patterns"
"""Our key: the cuts of a tokenizer for which the format has no name."""


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """The network in a GGUF file, in evaluation mode, and the file's metadata.

    Raises ModelError for a damaged file, another family, an unknown setting or number format.
    """
    reader = _open(path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    weights = {tensor.name: _dequantized(tensor, path) for tensor in reader.tensors}
    try:
        config = _config(values, weights)
    except KeyError as problem:
        raise ModelError(f"{path}: the key {problem} is missing") from None
    except ValueError as problem:
        raise ModelError(f"{path}: {problem}") from None
    weights.pop(ROPE_FACTORS, None)
    network = LlamaForCausalLM(config)
    fill(network, dict(_named(weights, config, path)), path)
    return network.eval(), values


def write_tokenizer(values: Mapping[str, Any], folder: Path) -> None:
    """Write the tokenizer in a GGUF file's metadata as Hugging Face's files.

    Raises ModelError for one that is not byte-level BPE or whose way of cutting text is not known.
    """
    rust = _byte_level(values)
    tokens = values["tokenizer.ggml.tokens"]
    names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in names.items():
        token_id = values.get(f"tokenizer.ggml.{name}_token_id")
        if token_id is not None:
            config[key] = tokens[token_id]
    if "tokenizer.chat_template" in values:
        config["chat_template"] = values["tokenizer.chat_template"]
    (folder / TOKENIZER).write_text(rust.to_str(pretty=True) + "\n", encoding="utf-8")
    content = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / TOKENIZER_CONFIG).write_text(content, encoding="utf-8")


def _open(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ModelError(f"{path}: GGUF files are read with the gguf package; pip install 'tidemill[gguf]'") from None
    try:
        return GGUFReader(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give a GGUF file") from None
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError) as problem:
        raise ModelError(f"{path}: not a whole GGUF file ({problem}); fetch it again") from None


def _dequantized(tensor: Any, path: Path) -> Tensor:
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    if kind not in QUANTIZATIONS:
        raise ModelError(
            f"{path}: {tensor.name} is in {kind}, which is not read; take a file in {', '.join(QUANTIZATIONS)}"
        )
    return torch.tensor(dequantize(tensor.data, tensor.tensor_type)).float()


def _config(values: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LlamaConfig:
    family = values["general.architecture"]
    if family not in VARIANTS:
        raise ValueError(f"general.architecture {family!r} is not supported, only {', '.join(VARIANTS)}")
    own = {name.removeprefix(f"{family}."): value for name, value in values.items() if name.startswith(f"{family}.")}
    for name, value in own.items():
        if name not in KNOWN_KEYS and value:
            raise ValueError(f"{family}.{name} {value!r} is not supported")
    num_heads, width = own["attention.head_count"], own["embedding_length"]
    head_size = own.get("attention.key_length", width // num_heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if own.get(name, head_size) != head_size:
            raise ValueError(f"{family}.{name} {own[name]} is not supported, only the head's size {head_size}")
    return LlamaConfig(
        vocab_size=weights["token_embd.weight"].shape[0],
        num_layers=own["block_count"],
        width=width,
        num_heads=num_heads,
        num_kv_heads=own.get("attention.head_count_kv", num_heads),
        mlp_width=own["feed_forward_length"],
        context=own["context_length"],
        rope_theta=round(own.get("rope.freq_base", 10_000.0), 3),
        rope_scaling=_scaling(own, weights),
        norm_eps=float(f"{own['attention.layer_norm_rms_epsilon']:.6g}"),  # 1e-05 is 9.99999974e-06 in the file
        tie_embeddings="output.weight" not in weights,
        head_dim=head_size,
        variant=VARIANTS[family],
        attention_bias=family == "llama" and "blk.0.attn_q.bias" in weights,
        begin_id=values.get("tokenizer.ggml.bos_token_id"),
        end_id=values.get("tokenizer.ggml.eos_token_id"),
        pad_id=values.get("tokenizer.ggml.padding_token_id"),
    )


def _scaling(own: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """How rotary positions are stretched; divisors of the single pairs are longrope's with one set for all lengths."""
    original = own.get("rope.scaling.original_context_length") or own["context_length"]
    if ROPE_FACTORS in weights:
        factors = weights[ROPE_FACTORS].tolist()
        both = {"short_factor": factors, "long_factor": factors, "factor": 1.0, "attention_factor": 1.0}
        return {"rope_type": "longrope", "original_max_position_embeddings": original, **both}
    kind = own.get("rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": own["rope.scaling.factor"]}
    if kind == "yarn":
        factor = own["rope.scaling.factor"]
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise ValueError(f"rope.scaling.type {kind!r} is not supported, only none, linear, yarn")


def _named(weights: Mapping[str, Tensor], config: LlamaConfig, path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors under Hugging Face's names and in its order of a head's rows."""
    for name, tensor in weights.items():
        stem, _, ending = name.rpartition(".")
        if stem in OUTER:
            yield f"{OUTER[stem]}.{ending}", tensor
            continue
        *block, part = stem.split(".")
        if len(block) != 2 or block[0] != "blk" or part not in INNER:
            raise ModelError(f"{path}: the tensor {name} belongs to no layer of this family")
        if config.variant == "llama" and part in ("attn_q", "attn_k"):
            tensor = _halves_apart(tensor, config.num_heads if part == "attn_q" else config.num_kv_heads)
        yield f"model.layers.{block[1]}.{INNER[part]}.{ending}", tensor


def _halves_apart(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows d and d + D/2 of each head turn together; llama.cpp holds Llama's as neighbours, 2d and 2d + 1."""
    pairs = tensor.view(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _byte_level(values: Mapping[str, Any]) -> RustTokenizer:
    kind, cut = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2":
        raise ModelError(
            f"tokenizer.ggml.model {kind!r} is not read, only gpt2 (byte-level BPE); "
            "import the folder in the form of transformers instead"
        )
    if cut not in CUTS:
        raise ModelError(
            f"tokenizer.ggml.pre {cut!r} is not known, only {', '.join(CUTS)}; "
            "import the folder in the form of transformers instead"
        )
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in values["tokenizer.ggml.merges"]]
    rust = RustTokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    patterns = values.get(PATTERN) or CUTS[cut]
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.pre_tokenizer = pre_tokenizers.Sequence([*splits, whole])
    rust.decoder = decoders.ByteLevel()
    kinds = values.get("tokenizer.ggml.token_type") or []
    for token, token_kind in zip(tokens, kinds, strict=False):
        if token_kind in (CONTROL, USER_DEFINED):
            rust.add_tokens([AddedToken(token, special=token_kind == CONTROL, normalized=False)])
    return rust
