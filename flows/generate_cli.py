"""`tidemill generate`: a model writes in the terminal, as it comes or all answers at once. Mounted by flows/cli.py."""

from __future__ import annotations

import json
import secrets
import sys
from typing import Annotated, Any

import typer

from flows.options import Json, model_folder


def generate(
    model: Annotated[
        str, typer.Argument(help="A model folder or a registered version.", metavar="FOLDER|NAME@VERSION")
    ],
    prompt: Annotated[str, typer.Argument(help="The text to continue, or to make another of.", metavar="PROMPT")],
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 100,
    temperature: Annotated[float, typer.Option(help="Randomness; 0 always takes the likeliest token.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Draw from this many of the likeliest tokens; 0 from all.")] = 50,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens of together this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw from tokens this share as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: what stands there comes less often again.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Taken from the score of tokens that were written.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same, for each time they were written.")] = 0.0,
    num: Annotated[int, typer.Option(help="Number of answers.")] = 1,
    beams: Annotated[int, typer.Option(help="Above 1: beam search, which draws nothing.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Of beam search: above 0 favours long texts.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Equal seeds give equal texts (default: another each time).")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text before which an answer ends; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Let a model continue a text, or an encoder-decoder make one."""
    from llm_core.pipeline import Writing, pipeline

    write = pipeline(None, model_folder(model))
    if not isinstance(write, Writing):
        raise ValueError(
            f"{model}: this model reads text and writes none; see docs/how-to/generate.md for what it can do"
        )
    seed = secrets.randbits(32) if seed is None else seed
    options: dict[str, Any] = {
        "max_new_tokens": max_tokens,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "num_return_sequences": num,
        "stop": stop,
    }
    if beams > 1:
        options |= {"num_beams": beams, "length_penalty": length_penalty}
    else:
        drawn = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        options |= {"do_sample": temperature > 0, "seed": seed, **drawn}
    if num == 1 and beams == 1 and not as_json:
        for piece in write.stream(prompt, **options):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
        return
    texts = [next(iter(found.values())) for found in write(prompt, return_full_text=False, **options)]
    if as_json:
        print(json.dumps({"model": model, "prompt": prompt, "seed": seed, "texts": texts}, ensure_ascii=False))
        return
    for number, text in enumerate(texts, start=1):
        print(f"--- {number}\n{text}")
