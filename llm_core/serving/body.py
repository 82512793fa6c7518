"""What all bodies of requests have in common: what is taken, and how the API's document says so."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

MAX_KEYS = 100
MAX_CHARACTERS = 80_000
"""So many fit into a request however JSON spells them: twelve bytes for a character outside the first plane."""


class Body(BaseModel):
    """Part of a request; a key it does not know is an error."""

    # Strict: "3" is no number, as the document says.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: Any) -> Any:
        """Null means "not given", as in OpenAI's API, and 3.0 is the integer 3, as in JSON."""
        if not isinstance(values, dict):
            return values
        if len(values) > MAX_KEYS:  # each unknown one would become an error of its own
            raise PydanticCustomError("invalid_value", "an object has at most {limit} keys here", {"limit": MAX_KEYS})
        return {key: _whole(value) for key, value in values.items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with what `_without_empty` allows: null wherever a value may be left out."""
        schema = handler(core)
        described = handler.resolve_ref_schema(schema)
        for name, field in described["properties"].items():
            if name not in described.get("required", ()):
                described["properties"][name] = _or_null(field)
        return schema


def _whole(value: Any, depth: int = 2) -> Any:
    """Whole numbers as int, in lists of lists at most: no request has them deeper."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if depth and isinstance(value, list) and not {float, list}.isdisjoint(map(type, value)):
        return [_whole(each, depth - 1) for each in value]
    return value


def _or_null(field: JsonSchemaValue) -> JsonSchemaValue:
    null: JsonSchemaValue = {"type": "null"}
    if null in field.get("anyOf", ()):
        return field
    told: JsonSchemaValue = {key: field[key] for key in ("title", "description", "default") if key in field}
    rest = {key: value for key, value in field.items() if key not in told}
    return {"anyOf": [*rest["anyOf"], null] if set(rest) == {"anyOf"} else [rest, null], **told}
