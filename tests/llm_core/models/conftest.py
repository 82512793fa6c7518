"""What all tests of model families share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def the_same_weights_every_time() -> None:
    """Reference networks are drawn by torch's global generator, and some draws are ill-conditioned."""
    torch.manual_seed(1)
