"""The ledger's memory of nights: what the last finished one was made from, so that the next knows what is new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_core.config import Recipe
from llm_core.inventory import Inventory
from tasks.ledger import Entry, Ledger
from tasks.lineage import intent


def reason_to_skip(ledger: Ledger, recipe: Recipe, inventory: Inventory) -> str | None:
    """Why tonight has nothing to do, or None where data, recipe or code changed since the last finished night."""
    last = _last_night(ledger, recipe.register_.line)
    if last is None or last.body["intent"] != intent(recipe, inventory):
        return None
    return f"no new data, recipe or code since the night of {last.at[:16]} ({len(inventory.files)} files)"


def note_night(ledger: Ledger, recipe: Recipe, inventory: Inventory, summary: Mapping[str, Any]) -> Entry:
    """Remember that this night was finished."""
    last = _last_night(ledger, recipe.register_.line)
    body = {
        "intent": intent(recipe, inventory),
        "inventory": inventory.digest,
        "version": summary["version"],
        "champion": summary["champion"],
        "promoted": summary["promoted"],
    }
    key = f"{recipe.register_.line}:{body['intent']} after {last.hash if last else None}"
    return ledger.append("night", recipe.register_.line, key, body)


def _last_night(ledger: Ledger, line: str) -> Entry | None:
    nights = [entry for entry in ledger.entries(line) if entry.kind == "night"]
    return nights[-1] if nights else None
