"""The page of explanations: which tokens spoke for what a model says, where they look, what it has read like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tasks.explained import Explained
from tasks.pages import render

if TYPE_CHECKING:
    from llm_core.serving.task_schema import AttentionMaps

TEMPLATE = "explain_page.html"
CELL, LABELS = 14, 64
"""Of a map: size of a cell, and room for the tokens' names, in points."""
FAINTEST = 0.02


def explain_page(name: str, found: Sequence[Explained]) -> str:
    """The page's HTML; equal explanations give equal pages."""
    return render(TEMPLATE, name=name, texts=[_shown(each) for each in found])


def _shown(found: Explained) -> dict[str, Any]:
    reply = found.reply
    most = max((abs(token.attribution) for token in reply.tokens), default=0.0) or 1.0
    tokens = [
        {
            "text": token.text or token.token,
            "attribution": token.attribution,
            "strength": round(100 * abs(token.attribution) / most),
            "side": "for" if token.attribution > 0 else "against",
        }
        for token in reply.tokens
    ]
    maps = list(_maps(reply.attention)) if reply.attention else []
    labels = [token.text.strip() or "␣" if token.start is not None else "·" for token in reply.tokens]
    return {
        "found": found,
        "tokens": tokens,
        "labels": labels,
        "maps": [{"title": title, "cells": list(_cells(weights))} for title, weights in maps],
        "cell": CELL,
        "room": LABELS,
        "size": LABELS + CELL * len(labels),
    }


def _maps(attention: AttentionMaps) -> Iterator[tuple[str, list[list[float]]]]:
    yield "Through all layers", attention.rollout
    for number, weights in enumerate(attention.layers, start=1):
        yield f"Layer {number}, mean of its heads", weights
    for each in attention.heads:
        yield f"Layer {each.layer + 1}, head {each.head + 1}", each.weights


def _cells(weights: Sequence[Sequence[float]]) -> Iterator[tuple[int, int, float]]:
    """Column, row and share of the cells that can be seen."""
    for row, shares in enumerate(weights):
        for column, share in enumerate(shares):
            if share >= FAINTEST:
                yield column, row, round(share, 2)
