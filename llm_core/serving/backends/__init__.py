"""Other engines behind the same gateway: vLLM on a GPU, llama.cpp at the edge.

The gateway keeps what it promises: it starts an engine's program for exactly one version, verified as for our own
engine, sends and takes token ids, and makes text, stop strings, versions, streams and errors itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llm_core.serving.backends import llama_cpp, vllm
from llm_core.serving.backends.program import BackendError, NotInstalled
from llm_core.serving.backends.runner import BackendRunner

if TYPE_CHECKING:
    from llm_core.models import Network
    from llm_core.serving.settings import RunnerSettings

__all__ = ["BackendError", "BackendRunner", "NotInstalled", "require", "start"]


def require(settings: RunnerSettings) -> None:
    """Raise NotInstalled where the backend's program is missing, so that a server says it before it begins."""
    if settings.backend == "vllm":
        vllm.find()
    elif settings.backend == "llama.cpp":
        llama_cpp.find()


def start(
    name: str, folder: Path, network: Network, settings: RunnerSettings, verify: Callable[[], None]
) -> BackendRunner:
    """Start the backend's program for one version and wait until it is well.

    `verify` raises where the folder is not what was loaded; it is asked again at each start that reads it.
    """
    program = (
        vllm.Vllm(name, folder, network, settings, verify)
        if settings.backend == "vllm"
        else llama_cpp.LlamaCpp(name, network, settings)
    )
    return BackendRunner(program, settings.start_seconds)
