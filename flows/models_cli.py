"""`tidemill import` and `tidemill export`: models of other tools in, models for them out. Mounted by flows/cli.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer

from flows.options import Json, model_folder, workspace

# Written out, since the models' own list would import torch; a test keeps the two alike.
TaskName = Literal[
    "causal_lm",
    "masked_lm",
    "seq2seq_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "embedding",
]
Output = Annotated[Path, typer.Option(help="The folder to make; it must not exist.", metavar="DIR")]


def import_model(
    source: Annotated[
        str, typer.Argument(help="A model folder, a .gguf file, or a repository of the hub.", metavar="SOURCE")
    ],
    output: Output,
    task: Annotated[
        str | None, typer.Option(help=f"Put this head on the body: {', '.join(get_args(TaskName))}.", metavar="TASK")
    ] = None,
    labels: Annotated[str, typer.Option(help="Names of a classifier's classes, as good,bad.", metavar="A,B")] = "",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub repository.")] = None,
    as_json: Json = False,
) -> None:
    """Import a model: a Hugging Face folder or hub id, or a GGUF file of the Llama family; no code of it is run."""
    from flows import report
    from llm_core.models.interface import Task
    from llm_core.models.transfer import import_model

    if task is not None and task not in get_args(TaskName):
        raise typer.BadParameter(f"{task!r} is no task; take one of {', '.join(get_args(TaskName))}")
    names = tuple(name.strip() for name in labels.split(",") if name.strip())
    artifact = import_model(source, output, cast("Task | None", task), names, revision)
    report.print_facts({"output": str(output), "digest": artifact.digest, **artifact.stats}, as_json)


def export_model(
    model: Annotated[
        str, typer.Argument(help="A registered version or a model folder.", metavar="NAME@VERSION|FOLDER")
    ],
    output: Annotated[Path | None, typer.Option(help="The folder to make; it must not exist.", metavar="DIR")] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="Make a GGUF file for llama.cpp instead; it must not exist.", metavar="FILE")
    ] = None,
    type_: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"], typer.Option("--type", help="Of the numbers in a GGUF file.")
    ] = "f32",
    as_json: Json = False,
) -> None:
    """Export a model as a folder in the form of transformers, with its model card, or as a GGUF file."""
    from flows import report
    from llm_core.models.transfer import export_gguf, export_model

    if (output is None) == (gguf is None):
        raise typer.BadParameter("give either --output DIR or --gguf FILE")
    if output is not None:
        facts = export_model(model_folder(model), output)
        _add_card(model, output)
        report.print_facts({"output": str(output), **facts}, as_json)
    elif gguf is not None:
        report.print_facts({"output": str(gguf), **export_gguf(model_folder(model), gguf, type_)}, as_json)


def _add_card(model: str, output: Path) -> None:
    """What the gate's decision says of a registered version; a folder has no decision."""
    from tasks.published import CARD, card_of

    card = None if Path(model).is_dir() else card_of(workspace().home, model)
    if card is not None:
        shutil.copyfile(card, output / CARD)
