"""A compiled training that was stopped goes on to the weights of one that never was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llm_core.tiny_training import CFG, Watcher, make_inputs, train_tiny

COMPILED = CFG.model_copy(update={"compile": "on", "precision": "bfloat16"})


class Stop(BaseException):
    """A request to stop as an orchestrator raises it."""


@pytest.mark.slow
def test_a_compiled_training_resumes_to_the_bit(tmp_path: Path) -> None:
    def stop_at_five(step: int) -> None:
        if step == 5:
            raise Stop

    make_inputs(tmp_path)
    unbroken = train_tiny(tmp_path, "unbroken", cfg=COMPILED)
    assert '"compiled": true' in (tmp_path / "unbroken" / "model" / "manifest.json").read_text()
    with pytest.raises(Stop):
        train_tiny(tmp_path, "stopped", Watcher(stop_at_five), COMPILED)
    watcher = Watcher()
    assert train_tiny(tmp_path, "stopped", watcher, COMPILED) == unbroken
    assert watcher.steps == [6, 7, 8]
