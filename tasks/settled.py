"""Whether a recipe has nothing left to do: asked of DVC and the ledger alone, before any server is started."""

from __future__ import annotations

from llm_core.artifact import Artifact
from llm_core.config import Recipe
from tasks import challenges
from tasks.gate import answer
from tasks.ledger import MOVES, Ledger
from tasks.register import key as version_key
from tasks.stages import STAGES
from tasks.summary import Summary, effect_row, pure_row
from tasks.update import up_to_date
from tasks.versioning import Versioning
from tasks.workspace import Workspace


def settled(ws: Workspace, recipe: Recipe) -> Summary | None:
    """The summary of a run that would change nothing, or None where there is work. `use_recipe` comes first."""
    if Versioning(ws).reasons(tuple(STAGES)):
        return None
    ledger = Ledger(ws.home)
    model, report = Artifact.peek(ws.out / "train", "model"), Artifact.peek(ws.out / "evaluate", "report")
    version = ledger.find("registered", version_key(recipe.register_, model))
    decision = answer(recipe.gate, version, report, ledger) if version else None
    if version is None or decision is None:
        return None
    is_served = decision.kind in MOVES and recipe.model.writes_text
    served = ledger.find("served", decision.hash) if is_served else challenges.lost(ledger, decision) or decision
    if served is None:
        return None
    effects = {"register": version, "gate": decision, "deploy": served}
    rows = [pure_row(up_to_date(stage, ws)) for stage in STAGES.values()]
    rows += [effect_row(name, entry, fresh=False, seconds=0.0) for name, entry in effects.items()]
    return Summary.of(ws, recipe, ledger, rows)
