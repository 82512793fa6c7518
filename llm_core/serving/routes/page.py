"""The playground: one page, without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PLAYGROUND = Path(__file__).parents[1] / "playground.html"

router = APIRouter()


@router.get("/", include_in_schema=False)
async def playground() -> HTMLResponse:
    """The page to try the model on."""
    page = PLAYGROUND.read_text(encoding="utf-8")
    headers = {
        "content-security-policy": _content_security_policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(page, headers=headers)


def _content_security_policy(page: str) -> str:
    """Allow this page's own script and style by their hashes, requests to this server, and nothing else."""
    script, style = (_source_hash(page, element) for element in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _source_hash(page: str, element: str) -> str:
    found = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    assert found is not None, f"{PLAYGROUND} has no <{element}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"
