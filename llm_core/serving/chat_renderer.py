"""The process that renders chat templates: reads one JSON request a line, answers one JSON line.

A model brings its own template, and a sandbox stops its code but not a loop without end or a rendering without bounds.
So it runs apart from the server, with little memory, and is killed when it is late. Run by path; it imports nothing of
ours.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 * 2**20
CPU_SECONDS = 3600
"""Ends a renderer that lost its server in the middle of a loop."""


class TooLong(ValueError):
    """A rendering beyond its limit."""


def environment() -> ImmutableSandboxedEnvironment:
    """The names and white-space rules that templates written for `transformers` count on."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def render(jinja: ImmutableSandboxedEnvironment, request: dict[str, Any]) -> str:
    """Render one request ``{"template", "variables", "max_characters"}``; raises TooLong beyond the limit."""
    parts = jinja.from_string(request["template"]).generate(**request["variables"])
    return "".join(_limited(parts, request["max_characters"]))


def _limited(parts: Iterator[str], limit: int) -> Iterator[str]:
    for part in parts:
        limit -= len(part)
        if limit < 0:
            raise TooLong("the rendered conversation is too long")
        yield part


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def main() -> None:
    """Answer requests until the server closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    jinja = environment()
    for line in sys.stdin:
        try:
            answer = {"text": render(jinja, json.loads(line))}
        except MemoryError:
            answer = {"error": "the template needs too much memory"}
        except Exception as problem:  # whatever a template's own code raises is its author's message
            answer = {"error": f"{type(problem).__name__}: {problem}"[:500]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
