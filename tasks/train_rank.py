"""``torchrun -m tasks.train_rank``: the train stage of this workspace on ranks that were started by hand.

For several machines: torchrun is started on each, in checkouts with equal inputs and one folder of checkpoints.
"""

from __future__ import annotations

import os
import sys

from llm_core.artifact import Interrupted
from llm_core.parallel import joined
from tasks.observers import Terminal
from tasks.stages import STAGES, prepare, read_run_recipe
from tasks.train import clear_checkpoints, fit_model
from tasks.workspace import Workspace


def main() -> int:
    """Be one rank; rank 0 shows progress and publishes the model. Exit codes as those of ``python -m tasks``."""
    if "RANK" not in os.environ:
        print("usage: torchrun --nproc-per-node N -m tasks.train_rank", file=sys.stderr)
        return 2
    try:
        _train()
    except Interrupted as stopped:
        print(f"interrupted: {stopped}", file=sys.stderr)
        return 4
    except (ValueError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return getattr(problem, "exit_code", 1)
    return 0


def _train() -> None:
    stage, ws = STAGES["train"], Workspace.here()
    recipe = read_run_recipe(ws)
    settings = recipe.train, recipe.model, recipe.seed
    with joined() as groups, Terminal("train") as observer:
        (tokens, tokenizer), draft = prepare(stage, recipe, ws, observer)
        if groups[0].rank:
            fit_model(*settings, tokens, tokenizer, draft, *groups)  # writes nothing into the draft
            return
        with draft as out:
            fitted = fit_model(*settings, tokens, tokenizer, out, *groups)
            artifact = out.publish(fitted.stats, fitted.circumstances)
            clear_checkpoints(out)
    print(f"{artifact.path}: {artifact.kind} {artifact.digest[:12]} {dict(artifact.stats)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
