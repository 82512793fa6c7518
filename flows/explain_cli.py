"""`tidemill explain`: which tokens spoke for what a model says, where they look, what it has read like it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import Json, model_folder, workspace

if TYPE_CHECKING:
    from tasks.explained import Explained


def explain(
    model: Annotated[
        str, typer.Argument(help="A model folder or a registered version.", metavar="FOLDER|NAME@VERSION")
    ],
    texts: Annotated[list[str], typer.Argument(help="What it reads; several are explained each.", metavar="TEXT...")],
    target: Annotated[
        str | None, typer.Option(help="A classifier's label, or how the text goes on (default: the likeliest).")
    ] = None,
    steps: Annotated[int, typer.Option(help="Points of the integral; more are more exact.", min=2, max=256)] = 64,
    nearest: Annotated[
        bool, typer.Option(help="Look for what it writes in its training documents, if they lie here.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option(help="Write a page with pictures of attention to this file.", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a classifier's label, or how a language model goes on."""
    from flows import report
    from llm_core.artifact import Artifact
    from tasks.explain_page import explain_page
    from tasks.explained import explained, load, training_index
    from tasks.pages import write_page

    folder = model_folder(model)
    loaded = load(model.rpartition("/")[2], folder)
    index = training_index(workspace(), Artifact.peek(folder, "model")) if nearest else None
    found = [explained(loaded, text, target, steps, index) for text in texts]
    if output is not None:
        write_page(explain_page(loaded.name, found), output)
    if as_json:
        report.print_facts({"model": model, "texts": [_facts(each) for each in found]}, as_json)
        return
    for each in found:
        _print(each)
    if nearest and index is None:
        print("training documents: not those of this workspace, so they were not searched")
    if output is not None:
        print(f"page: {output}")


def _facts(found: Explained) -> dict[str, Any]:
    passages = [asdict(passage) for passage in found.passages]
    reply = found.reply.model_dump(exclude={"usage", "model", "object", "system_fingerprint"})
    return {"text": found.text, **reply, "written": found.written, "searched": found.searched, "passages": passages}


def _print(found: Explained) -> None:
    """Bars beside tokens, then what was found in the training documents."""
    from rich.console import Console
    from rich.text import Text

    console, reply = Console(highlight=False), found.reply
    console.print(Text.assemble((found.text, "bold"), " → ", (reply.target.strip() or repr(reply.target), "bold cyan")))
    console.print(Text(f"log-probability {reply.score:.3f}, {reply.baseline_score:.3f} without the text"))
    most = max((abs(token.attribution) for token in reply.tokens), default=0.0) or 1.0
    for token in reply.tokens:
        bar = "█" * round(24 * abs(token.attribution) / most)
        color = "blue" if token.attribution > 0 else "red"
        console.print(
            Text.assemble(f"{token.attribution:+9.4f} ", (f"{bar:<24}", color), f" {token.text or token.token}")
        )
    if found.written:
        console.print(Text(f"goes on: {found.written}"))
    for passage in found.passages:
        console.print(
            Text(f"{passage.num_words} words in {passage.source} (character {passage.first}): {passage.passage}")
        )
