"""The parts of documents that are made from the code: between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

``python -m tests.contracts.documents`` writes them; a test fails while one is stale.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from flows.cli import app
from flows.scaffold import HEADER_FIELDS, recipe_headers
from llm_core.config import Recipe, Section

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/reference.md")
PACKAGES = ("flows", "tasks", "llm_core")
BOUNDS = (("ge", "at least {}"), ("gt", "above {}"), ("le", "at most {}"), ("lt", "below {}"))


def recipes_table() -> str:
    """What the recipes' headers say."""
    rows = [
        [f"`{row['recipe']}`", *(row[field] for field in HEADER_FIELDS)] for row in recipe_headers(ROOT / "configs")
    ]
    return table(("recipe", *HEADER_FIELDS), rows)


def files_table(package: str) -> str:
    """Every file of a package with the first sentence of what it says about itself."""
    folder = ROOT / package
    own_files_first = sorted(folder.rglob("*.*"), key=lambda path: (path.parent != folder, path))
    rows = [
        [f"[`{path.relative_to(folder).as_posix()}`]({path.relative_to(ROOT).as_posix()})", sentence]
        for path in own_files_first
        if (sentence := first_sentence(path))
    ]
    return table(("file", "what it is"), rows)


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, the title of a page, nothing for other files."""
    if path.suffix == ".html":
        title = re.search(r"<title>(.*?)</title>", path.read_text(encoding="utf-8"))
        return title[1] if title else ""
    if path.suffix != ".py":
        return ""
    paragraph = (ast.get_docstring(ast.parse(path.read_bytes())) or "").split("\n\n")[0]
    sentence = re.split(r"(?<=[.?!])\s", " ".join(paragraph.split()))[0]
    return sentence.replace("``", "`").rstrip(".")


def commands_reference() -> str:
    """Every command with its arguments and options."""
    return "\n\n".join(_command(path, command) for path, command in _commands(typer.main.get_command(app)))


def recipe_reference() -> str:
    """Every recipe key with what it may be, its default and its sentence."""
    sections = {field.alias or name: field for name, field in Recipe.model_fields.items() if _is_section(field)}
    parts = [f"### Top level\n\n{Recipe.__doc__}\n\n{_keys(Recipe)}"]
    for name, field in sections.items():
        parts.append(f"### {name}\n\n{field.annotation.__doc__}\n\n{_keys(field.annotation)}")
    return "\n\n".join(parts)


def table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


PARTS: Mapping[str, Callable[[], str]] = {
    "recipes": recipes_table,
    "commands": commands_reference,
    "recipe": recipe_reference,
    **{f"files {package}": partial(files_table, package) for package in PACKAGES},
}


def render(text: str) -> str:
    """`text` with its generated parts made afresh."""
    for name, make in PARTS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        if found:
            _, closed, after = rest.partition(end)
            if not closed:
                raise ValueError(f"{begin} has no {end}; add it on a line of its own")
            text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


def _commands(group: Any, path: tuple[str, ...] = ("tidemill",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _command(path: tuple[str, ...], command: Any) -> str:
    parameters = [parameter for parameter in command.params if parameter.name != "help"]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    usage = " ".join([*path, *(_name(p) if p.required else f"[{_name(p)}]" for p in arguments)])
    rows = [[f"`{_name(p)}`", _without_stop(p.help or ""), _default(_given(p))] for p in parameters]
    described = [f"### `{usage}`", command.help or ""]
    return "\n\n".join([*described, table(("parameter", "", "default"), rows)] if rows else described)


def _given(parameter: Any) -> Any:
    """The default of a parameter that takes a value; a switch that is left out is off."""
    return None if getattr(parameter, "is_flag", False) else parameter.default


def _name(parameter: Any) -> str:
    """An argument in capitals, an option by its name, with the shape of its value where it has one."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return " ".join([*parameter.opts, *([parameter.metavar] if parameter.metavar else [])])


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def _keys(section: type[Section]) -> str:
    rows = [
        [f"`{name}`", _allowed(field), _default(field.default), _without_stop(field.description or "")]
        for name, field in section.model_fields.items()
        if not _is_section(field)
    ]
    return table(("key", "what it may be", "default", ""), rows)


def _allowed(field: FieldInfo) -> str:
    """The type in a reader's words, with choices and bounds."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(field.annotation))
    kinds: Mapping[Any, str] = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
    kind = kinds.get(field.annotation) or (f"list of {_keys_of(field)}" if _keys_of(field) else "list of texts")
    limits = {name: getattr(item, name) for item in field.metadata for name, _ in BOUNDS if hasattr(item, name)}
    bounds = [words.format(f"{limits[name]:,}") for name, words in BOUNDS if limits.get(name) is not None]
    return ", ".join([kind, " and ".join(bounds)] if bounds else [kind])


def _keys_of(field: FieldInfo) -> str:
    """The keys of a list's items, where they are sections."""
    sections = [item for item in get_args(field.annotation) if isinstance(item, type) and issubclass(item, Section)]
    return ", ".join(f"`{name}`" for section in sections for name in section.model_fields)


def _default(value: Any) -> str:
    """A default as a recipe or a command line writes it; nothing for what has none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Section):
        return f"`{json.dumps(value.model_dump(exclude_defaults=True))}`"
    return ", ".join(_default(item) for item in value) if isinstance(value, tuple | list) else f"`{value}`"


def _without_stop(sentence: str) -> str:
    """A sentence for a table cell."""
    return " ".join(sentence.split()).removesuffix(".")


if __name__ == "__main__":
    for document in DOCUMENTS:
        place = ROOT / document
        place.write_text(render(place.read_text(encoding="utf-8")), encoding="utf-8")
