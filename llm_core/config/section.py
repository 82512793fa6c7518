"""What every group of recipe values has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""Of lines and recipes."""
VERSION_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}(@[1-9][0-9]*)?$"
"""LINE or LINE@VERSION."""


class Section(BaseModel):
    """A frozen group of recipe values; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
