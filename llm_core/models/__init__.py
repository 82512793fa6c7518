"""Model families, and the folder they are saved in: safetensors weights beside Hugging Face's ``config.json``."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llm_core.config import Model

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

# Hugging Face's name of an architecture -> our module, model class, config class.
FAMILIES = {"LlamaForCausalLM": ("llm_core.models.llama", "Llama", "LlamaConfig")}


class ModelError(ValueError):
    """A model folder that cannot be loaded; the message names the file and what is wrong."""


def build(architecture: Model, vocab_size: int, end_id: int, seed: int) -> nn.Module:
    """A freshly initialised model of the recipe's shape; equal arguments give equal weights."""
    from llm_core.models.llama import Llama, LlamaConfig

    model = Llama(
        LlamaConfig(
            vocab_size=vocab_size,
            num_layers=architecture.num_layers,
            width=architecture.width,
            num_heads=architecture.num_heads,
            num_kv_heads=architecture.num_kv_heads,
            mlp_width=architecture.mlp_width,
            context=architecture.context,
            rope_theta=architecture.rope_theta,
            tie_embeddings=architecture.tie_embeddings,
            end_id=end_id,
        )
    )
    model.initialize(seed)
    return model


def load_pretrained(folder: Path | str) -> nn.Module:
    """Load a saved model, ours or Hugging Face's, in float32 and evaluation mode; its call gives ``.logits``.

    Raises ModelError for a missing or damaged file, an unknown architecture, or weights that do not fit the config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    values = _read_json(folder / CONFIG)
    model = _empty_model(values, folder / CONFIG)
    try:
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise ModelError(f"{folder / WEIGHTS}: no weights here; give the folder of a trained model") from None
    except SafetensorError as problem:
        raise ModelError(f"{folder / WEIGHTS}: not a safetensors file ({problem}); restore or train it again") from None
    _fill(model, weights, folder / WEIGHTS)
    return model.eval()


def save_pretrained(model: nn.Module, folder: Path) -> None:
    """Write the weights in float32 with both config files; equal models give equal bytes."""
    from safetensors.torch import save_file

    config: Any = model.config
    values = config.to_json()
    weights = {name: tensor.detach().float().contiguous().cpu() for name, tensor in model.state_dict().items()}
    if values["tie_word_embeddings"]:
        del weights["lm_head.weight"]  # the layout holds a shared tensor once
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    special_ids = {key: values[key] for key in ("bos_token_id", "eos_token_id")}
    for name, content in ((CONFIG, values), (GENERATION_CONFIG, special_ids)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _empty_model(values: dict[str, Any], where: Path) -> nn.Module:
    architecture = next(iter(values.get("architectures") or []), None)
    if architecture not in FAMILIES:
        raise ModelError(f"{where}: architecture {architecture!r} is not supported, only {', '.join(sorted(FAMILIES))}")
    module_name, model_class, config_class = FAMILIES[architecture]
    module = import_module(module_name)
    try:
        config = getattr(module, config_class).from_json(values)
    except KeyError as problem:
        raise ModelError(f"{where}: the key {problem} is missing") from None
    except ValueError as problem:
        raise ModelError(f"{where}: {problem}") from None
    model: nn.Module = getattr(module, model_class)(config)
    return model


def _fill(model: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    config: Any = model.config
    if config.tie_embeddings:
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ weights.keys())
    if wrong:
        fact = "is missing" if wrong[0] in expected else "belongs to no layer of the config"
        raise ModelError(f"{where}: the tensor {wrong[0]} {fact} ({len(wrong)} such tensors)")
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape:
            found, needed = tuple(weights[name].shape), tuple(tensor.shape)
            raise ModelError(f"{where}: {name} has shape {found}, config.json says {needed}")
    model.load_state_dict(weights)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no model here; give the folder of a trained model") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ModelError(f"{path}: not readable as JSON ({problem})") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: a model's config is a mapping, this is {type(values).__name__}")
    return values
