"""The folder that a model is saved in: safetensors weights beside Hugging Face's ``config.json``."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_core.models.interface import ModelError, Network, Task
from llm_core.models.registry import ARCHITECTURES, FAMILIES, family_module, network_class

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
GENERATING: tuple[Task, ...] = ("causal_lm", "seq2seq_lm")
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")

logger = logging.getLogger(__name__)


def load_pretrained(folder: Path | str, task: Task | None = None, labels: Sequence[str] = (), seed: int = 0) -> Network:
    """Load a saved model, ours or Hugging Face's, in float32 and evaluation mode; its call gives ``.logits``.

    With another `task` than the saved one its body gets that head; what the head lacks is drawn from `seed` and logged.
    `labels` name a classifier's classes, where config.json does not. Raises ModelError for a missing or damaged file,
    an unknown architecture, or weights that do not fit the config.
    """
    folder = Path(folder)
    place = folder / CONFIG
    values = read_json(place)
    family, saved = _saved_class(values, place)
    config = _config(family, values, place)
    network: Network = (saved if task in (None, saved.task) else network_class(family, task))(
        replace(config, labels=tuple(labels)) if labels else config
    )
    weights = read_weights(folder)
    fill(network, weights, folder / WEIGHTS, seed, new_head=type(network) is not saved or bool(labels))
    return network.eval()


def saved_task(folder: Path | str) -> Task:
    """What the model of a folder is for, by its ``config.json`` alone."""
    place = Path(folder) / CONFIG
    task: Task = _saved_class(read_json(place), place)[1].task
    return task


def save_pretrained(model: Network, folder: Path) -> None:
    """Write the weights in float32 with the config files; equal models give equal bytes."""
    from safetensors.torch import save_file

    values = {**model.config.to_json(), "architectures": [model.architecture]}
    weights = {name: tensor.detach().float().contiguous().cpu() for name, tensor in model.state_dict().items()}
    for _, *copies in _tied(model):  # the layout holds a shared tensor once
        for name in copies:
            del weights[name]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, values)
    if model.task in GENERATING:
        write_json(folder / GENERATION_CONFIG, {key: values[key] for key in SPECIAL_IDS if values.get(key) is not None})


def fill(network: Network, weights: dict[str, Tensor], where: Path, seed: int = 0, new_head: bool = False) -> None:
    """Put `weights` in by name, as float32; with `new_head` the network's head may be missing or of another size."""
    expected = network.state_dict()
    weights = _renamed(network, weights, set(expected))
    for names in _tied(network):
        _complete(weights, names, where)
    fresh = [
        name
        for name in expected
        if new_head
        and name.startswith(network.untrained_heads)
        and (name not in weights or weights[name].shape != expected[name].shape)
    ]
    unused = sorted(weights.keys() - expected.keys())
    missing = sorted(expected.keys() - weights.keys() - set(fresh))
    if missing or (unused and not new_head):
        fact = "is missing" if missing else "belongs to no layer of the config"
        raise ModelError(f"{where}: the tensor {[*missing, *unused][0]} {fact} ({len(missing or unused)} such tensors)")
    for name in expected:
        if name not in fresh and weights[name].shape != expected[name].shape:
            found, needed = tuple(weights[name].shape), tuple(expected[name].shape)
            raise ModelError(f"{where}: {name} has shape {found}, config.json says {needed}")
    if fresh:
        network.initialize(seed)
        logger.warning("%s: new head, not trained yet: %s", where, ", ".join(fresh))
    if unused:
        logger.info("%s: not used by %s: %s", where, network.architecture, ", ".join(unused))
    own = {name: weights[name].float() for name in expected if name not in fresh}
    network.load_state_dict(own, strict=False)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, out of one file or of the shards that its index names."""
    if not (folder / WEIGHTS_INDEX).is_file():
        return _read_tensors(folder / WEIGHTS)
    index = read_json(folder / WEIGHTS_INDEX).get("weight_map")
    if not isinstance(index, dict):
        raise ModelError(f"{folder / WEIGHTS_INDEX}: it has no weight_map; fetch the file again")
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard:
            raise ModelError(f"{folder / WEIGHTS_INDEX}: {shard!r} is not a file of this folder")
        weights |= _read_tensors(folder / shard)
    if lost := sorted(index.keys() - weights.keys()):
        raise ModelError(f"{folder / WEIGHTS_INDEX}: the tensor {lost[0]} is in none of its files; fetch them again")
    return weights


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder; raises ModelError naming what is wrong."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no model here; give the folder of a trained model") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ModelError(f"{path}: not readable as JSON ({problem})") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: a mapping is needed, this is {type(values).__name__}")
    return values


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` in one form: equal contents give equal bytes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _saved_class(values: Mapping[str, Any], where: Path) -> tuple[str, Any]:
    name: Any = next(iter(values.get("architectures") or []), None)
    if name not in ARCHITECTURES:
        raise ModelError(f"{where}: architecture {name!r} is not supported, only {', '.join(sorted(ARCHITECTURES))}")
    family, class_name = ARCHITECTURES[name]
    return family, getattr(family_module(family), class_name)


def _config(family: str, values: Mapping[str, Any], where: Path) -> Any:
    if values.get("quantization_config"):
        raise ModelError(
            f"{where}: quantization_config: quantized weights are not read; take the model's unquantized ones"
        )
    try:
        return getattr(family_module(family), FAMILIES[family].config).from_json(values)
    except KeyError as problem:
        raise ModelError(f"{where}: the key {problem} is missing") from None
    except ValueError as problem:
        raise ModelError(f"{where}: {problem}") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        pass
    except SafetensorError as problem:
        raise ModelError(f"{path}: not a safetensors file ({problem}); restore or train it again") from None
    if list(path.parent.glob("pytorch_model*.bin")):
        raise ModelError(
            f"{path.parent / PICKLED_WEIGHTS}: a pickle, which can run any code when it is read, and so is never "
            "opened here; convert it to safetensors where you trust it (transformers' save_pretrained does)"
        )
    raise ModelError(f"{path}: no weights here; give the folder of a trained model") from None


def _renamed(network: Network, weights: Mapping[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """`weights` under this network's names: the body of another task may lie under another prefix."""
    prefix = f"{network.body}." if network.body else ""
    first = next(name for name in network.state_dict() if name.startswith(prefix)).removeprefix(prefix)
    found = next((name for name in weights if name == first or name.endswith(f".{first}")), first)
    other = found.removesuffix(first)
    renamed = {}
    for name, tensor in weights.items():
        ours = prefix + name.removeprefix(other) if name.startswith(other) else name
        if name.endswith(network.not_weights):
            continue
        renamed[ours if ours in expected else name] = tensor
    return renamed


def _tied(network: Network) -> list[list[str]]:
    """Groups of names that stand for one tensor, the one that is saved first."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _complete(weights: dict[str, Tensor], names: Sequence[str], where: Path) -> None:
    """Give all names of one shared tensor its value."""
    present = [name for name in names if name in weights]
    for name in present[1:]:
        if not weights[name].equal(weights[present[0]]):
            raise ModelError(f"{where}: {present[0]} and {name} differ, but config.json says that they are one tensor")
    if present:
        weights.update(dict.fromkeys(names, weights[present[0]]))
