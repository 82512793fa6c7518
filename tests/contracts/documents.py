"""The parts of documents that are made from the code: between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

``python -m tests.contracts.documents`` writes them; a test fails while one is stale.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from flows.cli import app
from flows.scaffold import HEADER_FIELDS, recipe_headers
from llm_core.config import Recipe

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/reference.md")


def recipes_table() -> str:
    """What the recipes' headers say."""
    rows = [f"| `{row['recipe']}` | " + " | ".join(row[field] for field in HEADER_FIELDS) + " |" for row in _headers()]
    return "\n".join(["| recipe | " + " | ".join(HEADER_FIELDS) + " |", "|---" * 5 + "|", *rows])


def commands_reference() -> str:
    """Every command with its options."""
    return "\n\n".join(_command(command, ("tidemill",)) for command in _commands(typer.main.get_command(app)))


def recipe_reference() -> str:
    """Every recipe key with its default and its sentence."""
    parts = []
    for name, field in Recipe.model_fields.items():
        section = field.default.__class__
        if hasattr(section, "model_fields"):
            parts.append(f"### {field.alias or name}\n\n{section.__doc__}\n\n{_fields(section)}")
    return "\n\n".join(parts)


PARTS = {"recipes": recipes_table, "commands": commands_reference, "recipe": recipe_reference}


def render(text: str) -> str:
    """`text` with its generated parts made afresh."""
    for name, make in PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin in text:
            pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), flags=re.DOTALL)
            content = f"{begin}\n{make()}\n{end}"
            text = pattern.sub(lambda _: content, text)  # noqa: B023 - used at once
    return text


def _headers() -> list[dict[str, str]]:
    return recipe_headers(ROOT / "configs")


def _commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        nested = _commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]
        found += nested
    return found


def _command(item: tuple[tuple[str, ...], Any], program: tuple[str, ...]) -> str:
    path, command = item
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join((*program, *path, *(p.metavar or p.name.upper() for p in arguments)))
    lines = [f"### {usage}", "", command.help or "", ""]
    for parameter in command.params:
        names = (
            ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.metavar or parameter.name
        )
        default = f" Default: `{parameter.default}`." if parameter.default not in (None, False, ...) else ""
        lines.append(f"- `{names}`: {getattr(parameter, 'help', '') or ''}{default}")
    return "\n".join(lines).rstrip()


def _fields(section: Any) -> str:
    rows = ["| key | default | |", "|---|---|---|"]
    for name, field in section.model_fields.items():
        default = str(field.default).replace("|", "\\|")
        rows.append(f"| `{name}` | `{default}` | {' '.join((field.description or '').split())} |")
    return "\n".join(rows)


if __name__ == "__main__":
    for document in DOCUMENTS:
        path = ROOT / document
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
