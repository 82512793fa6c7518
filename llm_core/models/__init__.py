"""Model families behind one interface, the registry of their names, and the folder they are saved in."""

from llm_core.models.folder import (
    CONFIG,
    GENERATION_CONFIG,
    WEIGHTS,
    WEIGHTS_INDEX,
    load_pretrained,
    save_pretrained,
    saved_task,
)
from llm_core.models.interface import LanguageModel, ModelError, Network, Output, Task
from llm_core.models.registry import ARCHITECTURES, FAMILIES, blank, build

__all__ = [
    "ARCHITECTURES",
    "CONFIG",
    "FAMILIES",
    "GENERATION_CONFIG",
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "LanguageModel",
    "ModelError",
    "Network",
    "Output",
    "Task",
    "blank",
    "build",
    "load_pretrained",
    "save_pretrained",
    "saved_task",
]
