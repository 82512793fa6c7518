"""Recipes of one's own: a new file in configs/, a folder for texts, and what recipe headers say."""

from __future__ import annotations

import re
from pathlib import Path

from llm_core.config import RecipeError, load_recipe, recipe_names
from llm_core.config.section import NAME_PATTERN
from tasks.workspace import Workspace

HEADER_FIELDS = ("command", "hardware", "time", "result")

TEMPLATE = """\
# command:  tidemill run {name}
# hardware: write here what it ran on
# time:     write here how long it took
# result:   write here the bits per byte it reached
inherit: demo
name: {name}

collect:
  sources: ["{source}"]
  license: write the licence of your texts here

register:
  line: {name}
"""


def scaffold(ws: Workspace, name: str, texts: Path | None) -> tuple[Path, Path]:
    """Write ``configs/NAME.yaml`` and make its folder of texts; an existing recipe is never overwritten."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise RecipeError(f"{name!r}: a name has small letters, digits and dashes, and begins with no dash")
    path = ws.configs / f"{name}.yaml"
    if path.exists():
        raise RecipeError(f"{path}: exists already; choose another name or edit it")
    source = (texts or Path("texts") / name).as_posix()
    folder = ws.project / source
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE.format(name=name, source=source), encoding="utf-8")
    load_recipe(name, ws.configs)
    return path, folder


def recipe_headers(configs: Path) -> list[dict[str, str]]:
    """Name and header fields of every recipe."""
    return [{"recipe": name, **recipe_header(configs / f"{name}.yaml")} for name in recipe_names(configs)]


def recipe_header(path: Path) -> dict[str, str]:
    """The fields ``# command: ...`` and so on of a recipe's first lines; a missing field is an error naming it."""
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    found = dict(re.findall(r"^# (\w+):\s+(.+)$", head, flags=re.MULTILINE))
    missing = [field for field in HEADER_FIELDS if field not in found]
    if missing:
        raise RecipeError(
            f"{path}: its header lacks {', '.join(missing)} (lines such as '# command: tidemill run NAME')"
        )
    return {field: found[field] for field in HEADER_FIELDS}
