"""Pages for people: one HTML file each that asks for nothing from outside, all in one style."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tasks.data_plots import shown_bytes

TEMPLATES = Path(__file__).parent
PRIVATE, PUBLIC = 0o600, 0o644


def render(template: str, **facts: Any) -> str:
    """A page from its template; a name that the template asks for and `facts` lack is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"count": "{:,}".format, "percent": "{:.1%}".format, "size": shown_bytes}
    return environment.get_template(template).render(**facts)


def write_page(content: str, out: Path, mode: int = PUBLIC) -> Path:
    """Write a file whole or not at all, with these rights from its first byte on."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content.encode())
    os.replace(draft, out)
    return out
