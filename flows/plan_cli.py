"""`tidemill plan`: what a recipe would cost, or which recipe a budget buys. Mounted by flows/cli.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import Json, Overrides, recipe_named, workspace

if TYPE_CHECKING:
    from llm_core.plan import Machine, Plan
    from llm_core.plan.estimate import OnMachine
    from llm_core.plan.proposal import Proposal

PARENT = "demo"
"""The recipe whose other values a proposal takes."""


def plan(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe of configs/, or the path of a YAML file.", metavar="RECIPE")
    ] = None,
    overrides: Overrides = None,
    layers: Annotated[bool, typer.Option("--layers", help="List layers, shapes and parameters instead.")] = False,
    every: Annotated[bool, typer.Option("--all", help="With --layers: each block for itself.")] = False,
    tokens: Annotated[
        float | None, typer.Option(help="Train on so many tokens instead of the recipe's.", metavar="NUMBER")
    ] = None,
    device: Annotated[
        str, typer.Option(help="a100, h100 or here; a budget in hours is spent on it.", metavar="NAME")
    ] = "here",
    mfu: Annotated[
        float | None,
        typer.Option(help="Share of the matrix rate that training reaches (here 0.6, elsewhere 0.4).", metavar="SHARE"),
    ] = None,
    flops: Annotated[
        float | None, typer.Option(help="Propose a recipe for so many operations, as in 1e18.", metavar="NUMBER")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Propose a recipe for so many hours on --device.", metavar="NUMBER")
    ] = None,
    law: Annotated[
        str, typer.Option(help="Scaling law of a proposal: besiroglu, hoffmann or twenty.", metavar="NAME")
    ] = "besiroglu",
    runs: Annotated[
        Path | None, typer.Option(help="Fit the law to these runs: CSV with params, tokens, loss.", metavar="FILE")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the proposed recipe here.", metavar="FILE")] = None,
    as_json: Json = False,
) -> None:
    """Say what a recipe would cost, without training it; or propose a recipe for a budget (--flops or --hours)."""
    if flops is not None or hours is not None:
        of_recipe = recipe is not None or bool(overrides) or layers or tokens is not None
        _refuse(of_recipe, "a recipe with --flops or --hours")
        _refuse(flops is not None and hours is not None, "--flops with --hours")
        _propose(flops, hours, _machine(device, mfu), law, runs, output, as_json)
        return
    _refuse(runs is not None or output is not None, "--runs or --output without --flops or --hours")
    chosen = recipe_named(workspace(), recipe or PARENT, overrides)
    if layers:
        _print_layers(chosen, every, as_json)
        return
    from llm_core.plan import plan_recipe

    made = plan_recipe(chosen, _machines(device, mfu), int(tokens or 0))
    if as_json:
        print(json.dumps(made.to_json(), indent=1))
    else:
        _print_plan(made)


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise typer.BadParameter(f"{what}: these do not go together; see tidemill plan --help")


def _machines(device: str, mfu: float | None) -> list[Machine]:
    """This machine and all accelerators, or the one that was asked for."""
    from llm_core.plan import ACCELERATORS

    return [_machine(name, mfu) for name in (("here", *ACCELERATORS) if device == "here" else (device,))]


def _machine(name: str, mfu: float | None) -> Machine:
    from llm_core.plan import ACCELERATORS, this_machine

    if name != "here" and name not in ACCELERATORS:
        raise typer.BadParameter(f"--device {name}: known are here, {', '.join(ACCELERATORS)}")
    if mfu is not None and not 0 < mfu <= 1:
        raise typer.BadParameter(f"--mfu {mfu}: give a share above 0 and at most 1")
    machine = this_machine() if name == "here" else ACCELERATORS[name]
    return machine if mfu is None else replace(machine, mfu=mfu)


def _propose(
    flops: float | None,
    hours: float | None,
    machine: Machine,
    law_name: str,
    runs: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    from llm_core.config import load_recipe
    from llm_core.plan.machines import precision_on
    from llm_core.plan.proposal import propose
    from llm_core.plan.scaling import LAWS, fit_law, read_runs

    if law_name not in LAWS:
        raise typer.BadParameter(f"--law {law_name}: known are {', '.join(LAWS)}")
    if output is not None and output.exists():
        raise ValueError(f"{output}: exists already; choose another name or remove it")
    ws = workspace()
    base = load_recipe(PARENT, ws.configs)
    law = fit_law(read_runs(runs), runs.name) if runs else LAWS[law_name]
    rate = machine.rate(precision_on(machine, base.train.precision)) * machine.mfu
    budget = flops if flops is not None else (hours or 0.0) * 3600 * rate
    proposal = propose(budget, law, base, machine, output.stem if output else "proposal")
    if output is not None:
        output.write_text(proposal.to_yaml(str(output), PARENT), encoding="utf-8")
        load_recipe(str(output), ws.configs)
    if as_json:
        print(json.dumps(_proposal_json(proposal, output), indent=1))
    else:
        _print_proposal(proposal, output)


def _proposal_json(proposal: Proposal, output: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "flops": proposal.flops,
        "law": asdict(proposal.law),
        "ideal_parameters": proposal.ideal_parameters,
        "expected_loss": proposal.expected_loss,
        "recipe": proposal.changes,
        "written": str(output) if output else None,
        "plan": proposal.plan.to_json(),
    }


def _print_proposal(proposal: Proposal, output: Path | None) -> None:
    from flows import report
    from llm_core.plan.scaling import LAWS

    chosen = proposal.plan
    laws = [*LAWS.values(), *(() if proposal.law in LAWS.values() else (proposal.law,))]
    rows = [
        {
            "law": law.name,
            "parameters": _count(ideal := law.parameters_for(proposal.flops)),
            "tokens": _count(proposal.flops / 6 / ideal),
            "tokens per parameter": f"{proposal.flops / 6 / ideal**2:.1f}",
            "from": law.source,
        }
        for law in laws
    ]
    report.print_rows(f"{proposal.flops:.3g} operations buy", rows, as_json=False)
    shape, train = proposal.changes["model"], proposal.changes["train"]
    facts = {
        "by the law": proposal.law.name,
        "parameters": f"{chosen.parameters.total:,}",
        "tokens": f"{chosen.tokens:,} ({chosen.tokens / chosen.parameters.total:.1f} per parameter)",
        "vocabulary": f"{proposal.changes['tokenizer']['vocab_size']:,}",
        **{name.replace("_", " "): str(shape[name]) for name in shape},
        "steps": f"{train['steps']:,}",
        "batch": f"{train['batch_tokens']:,} tokens",
        "learning rate": f"{train['lr']:g}",
    }
    if proposal.expected_loss:
        facts["loss that the law expects"] = f"{proposal.expected_loss:.3f} nats per token of the law's corpus"
    report.print_rows("Proposal", [{"": name, "value": value} for name, value in facts.items()], as_json=False)
    report.print_rows("On a machine", [_machine_row(each) for each in chosen.machines], as_json=False)
    if output is not None:
        print(f"wrote {output}; look at it with: tidemill plan {output}")


def _print_layers(recipe: Any, every: bool, as_json: bool) -> None:
    from flows import report
    from llm_core.plan import folded, layers_of, on_meta

    found = layers_of(on_meta(recipe))
    shown = found if every else folded(found)
    if as_json:
        print(json.dumps([{**layer._asdict(), "shape": list(layer.shape)} for layer in shown], indent=1))
        return
    total = sum(layer.parameters for layer in found)
    rows = [
        {"layer": name, "shape": " x ".join(map(str, shape)), "parameters": f"{parameters:,}"}
        for name, shape, parameters in (*shown, ("all", (), total))
    ]
    report.print_rows(f"Layers of {recipe.name}", rows, as_json=False)


def _print_plan(made: Plan) -> None:
    from flows import report

    report.print_rows(f"Plan of {made.recipe} ({made.family})", _plan_rows(made), as_json=False)
    report.print_rows("Memory of one training process", _memory_rows(made.machines), as_json=False)
    report.print_rows("On a machine", [_machine_row(each) for each in made.machines], as_json=False)


def _plan_rows(made: Plan) -> list[dict[str, str]]:
    count, work, context = made.parameters, made.operations, made.context
    facts = {
        "parameters": f"{count.total:,}",
        "  embedding": f"{count.embedding:,}",
        "  head": f"{count.head:,}" if count.head else "0 (shares the embedding's)",
        "  each block": f"{count.per_layer:,}",
        "FLOPs per token, forward": f"{_count(work.forward / context)} (attention {_count(work.attention / context)})",
        "FLOPs per token, backward": _count(work.backward / context),
        "FLOPs per token, training": f"{_count(work.training / context)} (6 N would be {_count(6 * count.total)})",
        "tokens of text": f"{made.tokens:,} in {made.steps:,} steps ({made.tokens / count.total:.1f} per parameter)",
        "FLOPs of the training": f"{made.training_flops:.3g}",
        "trained model on disk": _bytes(made.machines[0].memory.model),
        "a checkpoint on disk": _bytes(made.machines[0].memory.checkpoint),
        "KV cache of decoding, per token": _bytes(made.cache_bytes_per_token) + " in bfloat16",
    }
    if work.repeated:
        facts["FLOPs per token, recompute"] = _count(work.repeated / context)
    return [{"": name, "value": value} for name, value in facts.items()]


def _memory_rows(machines: Sequence[OnMachine]) -> list[dict[str, str]]:
    columns = {each.machine.name: each for each in machines}
    parts = {
        "weights, float32": "weights",
        "bfloat16 copy": "working_copy",
        "optimizer state": "optimizer",
        "gradients, float32": "gradients",
        "activations": "activations",
        "loss and output head": "output_head",
        "optimizer's step": "update",
        "peak (not all at once)": "peak",
    }
    rows = [
        {"": what, **{name: _bytes(getattr(each.memory, key)) for name, each in columns.items()}}
        for what, key in parts.items()
    ]
    return [*rows, {"": "with program and heap", **{name: _bytes(e.resident_bytes) for name, e in columns.items()}}]


def _machine_row(each: OnMachine) -> dict[str, str]:
    machine = each.machine
    rate = machine.bfloat16_rate if each.precision == "bfloat16" else machine.float32_rate
    return {
        "machine": machine.name,
        "time": _time(each.seconds),
        "tokens/s": f"{each.tokens_per_second:,.0f}",
        "memory": f"{_bytes(each.resident_bytes)} of {_bytes(machine.memory_bytes)}",
        "fits": "yes" if each.fits else "no",
        "assumed": f"{machine.mfu:.0%} of {rate / 1e12:.3g} TFLOP/s in {each.precision}",
        "from": machine.source,
    }


def _count(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _time(seconds: float) -> str:
    for size, unit in ((86400 * 365, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
