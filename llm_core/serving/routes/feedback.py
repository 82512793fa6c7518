"""What people think of answers."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from llm_core.serving.body import MAX_CHARACTERS, Body
from llm_core.serving.callers import Calling
from llm_core.serving.errors import ApiError
from llm_core.serving.samples import Judgement, Samples, consents
from llm_core.serving.service import Serving

router = APIRouter()


class Feedback(Body):
    """POST /v1/feedback: a rating, stars or a better answer, or several of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"properties": {name: {"type": kind}}, "required": [name]}
                for name, kind in (("rating", "integer"), ("stars", "integer"), ("correction", "string"))
            ]
        }
    )

    id: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    """The `id` of the response that is meant."""
    rating: Literal[-1, 0, 1] | None = None
    """Bad, neither, good."""
    stars: int | None = Field(default=None, ge=1, le=5)
    """From worst to best."""
    correction: str | None = Field(default=None, min_length=1, max_length=MAX_CHARACTERS)
    """A better answer; kept with consent only."""
    consent: bool = False
    """Whether the exchange and the correction may be kept, without personal data, to improve the model."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rating is None and self.stars is None and self.correction is None:
            raise PydanticCustomError("invalid_value", "give {param}, stars or correction", {"param": "rating"})
        return self

    @property
    def opinion(self) -> float | None:
        """From -1, bad, to 1, good."""
        return self.rating if self.rating is not None or self.stars is None else (self.stars - 3) / 2


@router.post("/feedback")
async def give_feedback(body: Feedback, request: Request, service: Serving, caller: Calling) -> dict[str, Any]:
    """Keep what somebody thinks of a response; `kept` says what was."""
    samples: Samples | None = request.app.state.samples
    if samples is None:
        message = "this server keeps no feedback; tidemill serve --sample 0 makes it"
        raise ApiError(HTTPStatus.NOT_FOUND, message, "feedback_off")
    judgement = Judgement(body.id, body.rating, body.stars, body.correction)
    consent = body.consent or consents(request.headers, {})
    if (opinion := body.opinion) is not None:
        service.rate(body.id, opinion)
    return {"object": "feedback", "id": body.id, "kept": samples.judge(judgement, caller.key_id, consent)}
