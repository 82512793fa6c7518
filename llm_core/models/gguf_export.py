"""Writing a network of the Llama family and its tokenizer as a GGUF file, llama.cpp's format.

What the file says is what `read_gguf` reads back: llama.cpp's names of tensors, Llama's queries and keys with the rows
that turn together as neighbours, and the tokenizer where it is byte-level BPE.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from llm_core.models.folder import read_json
from llm_core.models.gguf import CONTROL, CUTS, INNER, OUTER, PATTERN, ROPE_FACTORS, USER_DEFINED
from llm_core.models.interface import ModelError
from llm_core.models.llama import LlamaConfig, LlamaForCausalLM
from llm_core.models.rotary import frequencies
from llm_core.tokenizer import Tokenizer
from llm_core.tokenizer.byte_level import PRE_TOKENS
from llm_core.tokenizer.tokenizer import TOKENIZER, TOKENIZER_CONFIG, TURN_END, read_rust

Format = Literal["f32", "f16", "bf16", "q8_0"]
FAMILIES: Mapping[str, str] = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
THEIR_OUTER = {ours: theirs for theirs, ours in OUTER.items()}
THEIR_INNER = {ours: theirs for theirs, ours in INNER.items()}
BLOCK = 32  # numbers that share one scale in q8_0
NORMAL, UNUSED = 1, 5  # kinds of tokens, beside those that are read
NEAREST_CUT = "llama-bpe"
PATTERN_NOTE = (
    "llama.cpp has no name for this tokenizer's way of cutting text; the nearest, {nearest}, differs on numbers of "
    "three digits and more. Send token ids where that matters"
)
OTHER_NOTE = (
    "llama.cpp has no name for this tokenizer's way of cutting text; the file says {nearest}, so the ids of text can "
    "differ. Send token ids"
)


def write_gguf(network: Any, folder: Path | None, place: Path, kind: Format = "f32") -> list[str]:
    """Write `network` to the file `place` with the tokenizer of `folder`; returns what its readers should know.

    Without a folder the tokens are named by their numbers, which is for those who send and take ids only. Raises
    ModelError for a network or tokenizer that llama.cpp would read as something else.
    """
    writer = _writer(place, _family(network))
    config: LlamaConfig = network.config
    try:
        _write_shape(writer, FAMILIES[config.variant], config, kind)
        notes = _write_numbers(writer, config) if folder is None else _write_tokenizer(writer, folder, config)
        for name, tensor in _tensors(network):
            _add(writer, name, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return notes


def _writer(place: Path, family: str) -> Any:
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise ModelError(
            f"{place}: GGUF files are written with the gguf package; pip install 'tidemill[gguf]'"
        ) from None
    return GGUFWriter(place, family)


def _family(network: Any) -> str:
    if not isinstance(network, LlamaForCausalLM):
        raise ModelError(f"{network.architecture} has no GGUF form here, only causal_lm of {', '.join(FAMILIES)}")
    config = network.config
    unsupported = {
        "sliding_window": config.sliding_layers and config.sliding_window,
        "mlp_bias": config.mlp_bias,
        "attention_bias": config.variant == "qwen3" and config.attention_bias,
        "rope_scaling": _scaling_not_written(config) and dict(config.rope_scaling),
    }
    for name, value in unsupported.items():
        if value:
            raise ModelError(f"{name} {value!r}: llama.cpp would ignore it, so this model cannot be written as GGUF")
    return FAMILIES[config.variant]


def _scaling_not_written(config: LlamaConfig) -> bool:
    """Linear, YaRN with its usual settings, and divisors of single pairs are all that the format holds."""
    scaling = config.rope_scaling
    kind = scaling.get("rope_type", "none")
    if kind == "yarn":
        return bool(scaling.keys() - {"rope_type", "factor", "original_max_position_embeddings"})
    if kind == "longrope":
        both = scaling["short_factor"], scaling["long_factor"], scaling.get("attention_factor")
        return both[0] != both[1] or both[2] != 1.0
    return kind not in ("none", "linear", "llama3")


def _write_shape(writer: Any, family: str, config: LlamaConfig, kind: Format) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType, RopeScalingType

    writer.add_name(family)
    writer.add_file_type(LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_string("tidemill.version", package_version("tidemill"))
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    scaling = config.rope_scaling
    if scaling.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
    if "original_max_position_embeddings" in scaling:
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def _tensors(network: LlamaForCausalLM) -> Iterator[tuple[str, Tensor]]:
    """The tensors under their names and in their order of rows; a tied head is left out."""
    config = network.config
    for name, tensor in network.state_dict().items():
        stem, _, ending = name.rpartition(".")
        if stem in THEIR_OUTER:
            if not (config.tie_embeddings and stem == "lm_head"):
                yield f"{THEIR_OUTER[stem]}.{ending}", tensor
            continue
        _, _, layer, part = stem.split(".", 3)
        theirs = THEIR_INNER[part]
        if FAMILIES[config.variant] == "llama" and theirs in ("attn_q", "attn_k"):
            tensor = _pairs_together(tensor, config.num_heads if theirs == "attn_q" else config.num_kv_heads)
        yield f"blk.{layer}.{theirs}.{ending}", tensor
    if config.rope_scaling.get("rope_type") in ("llama3", "longrope"):
        plain, _ = frequencies(config.rope_theta, config.head_size, config.context, {})
        stretched, _ = frequencies(config.rope_theta, config.head_size, config.context, config.rope_scaling)
        yield ROPE_FACTORS, plain / stretched


def _pairs_together(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows d and d + D/2 of each head turn together; llama.cpp wants Llama's as neighbours, 2d and 2d + 1."""
    halves = tensor.view(num_heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _add(writer: Any, name: str, tensor: Tensor, kind: Format) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    if tensor.dim() == 1:
        kind = "f32"
    elif kind == "q8_0" and tensor.shape[-1] % BLOCK:
        kind = "f16"  # as llama.cpp's own program does with rows that are no whole blocks
    values = np.ascontiguousarray(tensor.detach().to(torch.float32).cpu().numpy())
    number_format = GGMLQuantizationType[kind.upper()]
    writer.add_tensor(name, quantize(values, number_format), raw_dtype=number_format)


def _write_numbers(writer: Any, config: LlamaConfig) -> list[str]:
    """A vocabulary of numbers. None of them is a part of a character or a known control token, so that the server tells
    each token when it is drawn and ends an answer at the end-of-text id only."""
    _write_vocabulary(writer, [f"<{number}>" for number in range(config.vocab_size)], [NORMAL] * config.vocab_size)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_merges(["< 0"])  # there must be one; it makes no token
    if config.end_id is not None:
        writer.add_eos_token_id(config.end_id)
    writer.add_add_bos_token(False)
    return []


def _write_vocabulary(writer: Any, tokens: list[str], kinds: list[int]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)


def _write_tokenizer(writer: Any, folder: Path, config: LlamaConfig) -> list[str]:
    saved = json.loads(read_rust(folder / TOKENIZER).to_str())
    model, added = saved["model"], {token["id"]: token for token in saved["added_tokens"]}
    if model["type"] != "BPE" or model.get("byte_fallback") or saved.get("normalizer"):
        raise ModelError(
            f"{folder / TOKENIZER}: only byte-level BPE can be written as GGUF; convert this model's folder with "
            "llama.cpp's convert_hf_to_gguf.py"
        )
    names = {token_id: token for token, token_id in model["vocab"].items()}
    names |= {token_id: token["content"] for token_id, token in added.items()}
    tokens = [names.get(number, f"[UNUSED{number}]") for number in range(config.vocab_size)]
    _write_vocabulary(writer, tokens, [_kind(number, names, added) for number in range(config.vocab_size)])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    _write_controls(writer, folder)
    return _write_cut(writer, saved.get("pre_tokenizer"))


def _kind(number: int, names: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> int:
    if number not in names:
        return UNUSED
    if number not in added:
        return NORMAL
    return CONTROL if added[number]["special"] else USER_DEFINED


def _write_controls(writer: Any, folder: Path) -> None:
    """The control tokens; as this project's server does, texts begin with the end-of-text id."""
    tokenizer, settings = Tokenizer.load(folder), read_json(folder / TOKENIZER_CONFIG)
    writer.add_bos_token_id(tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_eot_token_id(tokenizer.special_ids[TURN_END])
    writer.add_add_bos_token(True)
    if isinstance(settings.get("chat_template"), str):
        writer.add_chat_template(settings["chat_template"])


def _write_cut(writer: Any, pre_tokenizer: Any) -> list[str]:
    """How text is cut before merging: llama.cpp's name of it, or the nearest one, the patterns and a warning."""
    patterns = _patterns(pre_tokenizer)
    known = next((name for name, cuts in CUTS.items() if cuts == patterns), None)
    writer.add_tokenizer_pre(known or NEAREST_CUT)
    if known:
        return []
    note = (PATTERN_NOTE if patterns == (PRE_TOKENS,) else OTHER_NOTE).format(nearest=NEAREST_CUT)
    writer.add_description(note)
    if patterns:
        writer.add_array(PATTERN, list(patterns))
    return [note]


def _patterns(pre_tokenizer: Any) -> tuple[str, ...]:
    """The regular expressions that cut text one after the other; none where it is cut in another way too."""
    found: list[str] = []
    for part in (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}]):
        match part:
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"}:
                found.append(pattern)
            case {"type": "Digits", "individual_digits": True}:
                found.append(r"\p{N}")
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
                found.append(CUTS["gpt-2"][0])
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}:
                pass
            case _:
                return ()
    return tuple(found)
