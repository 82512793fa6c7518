"""Chat templates: a conversation becomes one prompt, rendered apart from the server within bounds of time and size."""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

RENDERER = Path(__file__).with_name("chat_renderer.py")
RENDER_SECONDS = 2.0
START_SECONDS = 20.0
"""A renderer's first answer includes Python's own start, on a machine that may be busy."""
MAX_CHARACTERS = 1_000_000


class ChatError(ValueError):
    """A conversation that the model's template does not take, or a template that breaks its bounds."""


class ChatTemplate:
    """The template of one model, with a renderer process of its own that is replaced when it is late."""

    def __init__(self, template: str, variables: Mapping[str, Any], render_seconds: float = RENDER_SECONDS) -> None:
        self._template = template
        self._variables = dict(variables)
        self._render_seconds = render_seconds
        self._renderer: subprocess.Popen[bytes] | None = None
        self._busy = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> ChatTemplate | None:
        """The template in a model folder's ``tokenizer_config.json``, None where the model has none."""
        path = folder / "tokenizer_config.json"
        if not path.is_file():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        template = values.get("chat_template")
        if template is None:
            return None
        if not isinstance(template, str):
            raise ValueError(f"{path}: chat_template must be one string, this is {type(template).__name__}")
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        return cls(template, {name: _token_text(values.get(name)) for name in names})

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        specials: Sequence[str],
        values: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[str]:
        """The prompt up to the assistant's turn, cut at special tokens: pieces at odd places are special tokens.

        Only the template puts special tokens in: the same text inside a message stays text. Raises ChatError.
        """
        disguise = _Disguise(specials)
        hidden = [{key: disguise.hide(value) for key, value in message.items()} for message in messages]
        given = {key: disguise.hide(value) if isinstance(value, str) else value for key, value in values.items()}
        variables = {"add_generation_prompt": True, **given, **self._variables, "messages": hidden}
        return disguise.cut(self._ask(variables))

    def _ask(self, variables: Mapping[str, Any]) -> str:
        request = {"template": self._template, "variables": variables, "max_characters": MAX_CHARACTERS}
        with self._busy:
            is_new = self._renderer is None
            renderer = self._renderer or self._start()
            deadline = time.monotonic() + self._render_seconds + (START_SECONDS if is_new else 0.0)
            line = _exchange(renderer, json.dumps(request).encode() + b"\n", deadline)
            if line is None:
                _end(renderer)
                self._renderer = None
                raise ChatError(f"the chat template was stopped: it took over {self._render_seconds:g} s or crashed")
        answer = json.loads(line)
        if "error" in answer:
            raise ChatError(f"the chat template refused the conversation: {answer['error']}")
        text: str = answer["text"]
        return text

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(RENDERER)]
        # A session of its own: Ctrl-C in the server's terminal is the server's to answer.
        renderer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._renderer = renderer
        weakref.finalize(self, _end, renderer)
        return renderer


class _Disguise:
    """Replaces special tokens inside messages by placeholders that no template or message knows."""

    def __init__(self, specials: Sequence[str]) -> None:
        self._specials = sorted((special for special in specials if special), key=len, reverse=True)
        nonce = secrets.token_hex(8)
        self._placeholders = {special: f"\ue000{nonce}{place}\ue001" for place, special in enumerate(self._specials)}

    def hide(self, text: str) -> str:
        for special, placeholder in self._placeholders.items():
            text = text.replace(special, placeholder)
        return text

    def cut(self, rendered: str) -> list[str]:
        """Split at real special tokens, then give messages their own text back."""
        pieces, start = [], 0
        while (found := self._next(rendered, start)) is not None:
            place, special = found
            pieces += [self._restore(rendered[start:place]), special]
            start = place + len(special)
        return [*pieces, self._restore(rendered[start:])]

    def _next(self, text: str, start: int) -> tuple[int, str] | None:
        """The first special token at or after `start`, the longest of those that begin there."""
        found = ((text.find(special, start), -len(special), special) for special in self._specials)
        place, _, special = min((item for item in found if item[0] >= 0), default=(-1, 0, ""))
        return (place, special) if place >= 0 else None

    def _restore(self, text: str) -> str:
        for special, placeholder in self._placeholders.items():
            text = text.replace(placeholder, special)
        return text


def _exchange(renderer: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes | None:
    """Send a line and wait for the answering line; None when the renderer is late or gone."""
    assert renderer.stdin is not None and renderer.stdout is not None
    try:
        renderer.stdin.write(request)
        renderer.stdin.flush()
    except BrokenPipeError:
        return None
    return _read_line(renderer.stdout.fileno(), deadline)


def _read_line(descriptor: int, deadline: float) -> bytes | None:
    waiting = select.poll()  # select() itself knows no descriptor above 1023
    waiting.register(descriptor, select.POLLIN)
    line = bytearray()
    while not line.endswith(b"\n"):
        is_ready = waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
        part = os.read(descriptor, 1 << 16) if is_ready else b""
        if not part:
            return None
        line += part
    return bytes(line)


def _end(renderer: subprocess.Popen[bytes]) -> None:
    renderer.kill()
    renderer.wait()
    for pipe in (renderer.stdin, renderer.stdout):
        if pipe is not None:
            pipe.close()


def _token_text(value: Any) -> str:
    """A special token of ``tokenizer_config.json``: plain text or ``{"content": text}``."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""
