"""Which network stands behind an architecture's name, and how a recipe's model is built."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_core.models.interface import ModelError, Network, Task

if TYPE_CHECKING:
    from types import ModuleType

    from llm_core.config import Model


class Family(NamedTuple):
    """What a family's module offers, besides ``from_recipe(architecture, vocab_size, end_id, num_labels)``."""

    config: str
    """Its config class, with `from_json` and `to_json`."""
    architectures: Mapping[str, str]
    """Hugging Face's name -> the class; the first one is the task that the family was made for."""


LLAMA_HEADS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model")
LLAMA_VARIANTS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def _own_names(*names: str) -> dict[str, str]:
    return {name: name for name in names}


FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "LlamaConfig",
        {f"{name}{head}": f"Llama{head}" for name in LLAMA_VARIANTS.values() for head in LLAMA_HEADS},
    ),
    "gpt2": Family(
        "GPT2Config",
        _own_names(
            "GPT2LMHeadModel",
            "GPT2ForSequenceClassification",
            "GPT2ForTokenClassification",
            "GPT2ForQuestionAnswering",
            "GPT2Model",
        ),
    ),
    "bert": Family(
        "BertConfig",
        _own_names(
            "BertForMaskedLM",
            "BertForSequenceClassification",
            "BertForTokenClassification",
            "BertForQuestionAnswering",
            "BertModel",
        ),
    ),
    "t5": Family(
        "T5Config",
        _own_names(
            "T5ForConditionalGeneration",
            "T5ForSequenceClassification",
            "T5ForTokenClassification",
            "T5ForQuestionAnswering",
            "T5EncoderModel",
        ),
    ),
    "transformer": Family("TransformerConfig", _own_names("TransformerForSeq2SeqLM")),
    "lstm": Family(
        "LstmConfig", _own_names("LstmForCausalLM", "LstmForSequenceClassification", "LstmForTokenClassification")
    ),
}
ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    name: (family, class_name)
    for family, offered in FAMILIES.items()
    for name, class_name in offered.architectures.items()
}


def build(
    architecture: Model, vocab_size: int, end_id: int, seed: int, task: Task | None = None, num_labels: int = 2
) -> Network:
    """A freshly initialised network of the recipe's shape; equal arguments give equal weights.

    Without `task` it does what its family was made for; `num_labels` is for classifiers.
    """
    network = blank(architecture, vocab_size, end_id, task, num_labels)
    network.initialize(seed)
    return network


def blank(architecture: Model, vocab_size: int, end_id: int, task: Task | None = None, num_labels: int = 2) -> Network:
    """The same network with weights of no meaning; under ``torch.device("meta")`` it takes no memory."""
    module = family_module(architecture.family)
    config = module.from_recipe(architecture, vocab_size, end_id, num_labels)
    network: Network = network_class(architecture.family, task)(config)
    return network


def network_class(family: str, task: Task | None) -> Any:
    """The family's class for `task`; raises ModelError where it has none, naming those it has."""
    module = family_module(family)
    classes = [getattr(module, name) for name in dict.fromkeys(FAMILIES[family].architectures.values())]
    if task is None:
        return classes[0]
    found = [offered for offered in classes if offered.task == task]
    if not found:
        tasks = ", ".join(offered.task for offered in classes)
        raise ModelError(f"task {task!r} is not supported by the {family} family, only {tasks}")
    return found[0]


def family_module(family: str) -> ModuleType:
    """The module of a family. Each import stands here by name, so that a stage's code closure holds it."""
    if family == "llama":
        import llm_core.models.llama
    elif family == "gpt2":
        import llm_core.models.gpt2
    elif family == "bert":
        import llm_core.models.bert
    elif family == "t5":
        import llm_core.models.t5
    elif family == "transformer":
        import llm_core.models.transformer
    elif family == "lstm":
        import llm_core.models.lstm  # noqa: F401
    else:
        raise ModelError(f"model family {family!r} is not supported, only {', '.join(FAMILIES)}")
    return sys.modules[f"llm_core.models.{family}"]
