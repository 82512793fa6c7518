"""The card of a served version, for the playground and whoever asks what answered."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from llm_core.serving.callers import Calling
from llm_core.serving.cards import lineage
from llm_core.serving.registry import CARD
from llm_core.serving.service import Serving, describe

router = APIRouter()


@router.get("/models/{name}/card")
async def model_card(name: str, service: Serving, caller: Calling) -> dict[str, Any]:
    """What a version is, what its folder says of itself, and where it came from."""
    model = service.named(name, caller)
    facts = {**describe(model), **asdict(model.card), "lineage": lineage(model.version)}
    facts["readme"] = model.card.readme or model.version.tags.get(CARD)
    return {"id": model.name, "object": "model.card", **facts}
