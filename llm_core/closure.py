"""Which source files a stage's result depends on: the modules its module imports, found without running them.

The same list is a stage's code dependency in ``dvc.yaml`` and goes, as one digest, into the manifest of what it made.
``llm_core/config`` is left out: a changed default changes the recipe slice, which is recorded by value.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("llm_core", "tasks", "flows")
LEFT_OUT = ("llm_core.config", "llm_core.closure", "llm_core.artifact")


@cache
def closure(module: str) -> tuple[str, ...]:
    """Names of the project's modules that `module` needs, itself included, sorted."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or any(name == left or name.startswith(f"{left}.") for left in LEFT_OUT):
            continue
        found.add(name)
        waiting.extend(_imported(name))
    return tuple(sorted(found))


def closure_paths(module: str) -> tuple[str, ...]:
    """The closure's files, relative to the project's root, with forward slashes."""
    return tuple(_file(name).relative_to(ROOT).as_posix() for name in closure(module))


@cache
def code_digest(module: str) -> str:
    """sha256 over the names and bytes of the closure's files."""
    digest = hashlib.sha256()
    for path in closure_paths(module):
        content = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        digest.update(f"{path} {content}\n".encode())
    return digest.hexdigest()


def _imported(module: str) -> Iterator[str]:
    path = _file(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES and _is_module(name))


def _file(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_module(name: str) -> bool:
    return _file(name).is_file()
