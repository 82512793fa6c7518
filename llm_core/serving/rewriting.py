"""Translations and summaries: encoder-decoders make a new text of each text that they are given.

The engine writes them, token by token like all answers; beam search is not of that kind and is done beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_core.generate import Sampling, searching
from llm_core.serving.answering import prompt_ids
from llm_core.serving.jobs import Job
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.reading import check_length
from llm_core.serving.replies import Choice, Frame, Reply
from llm_core.serving.task_schema import RewriteRequest
from llm_core.serving.workers import Work


class RewriteReply(Reply):
    """/v1/translate and /v1/summarize."""

    def __init__(self, frame: Frame, name: str) -> None:
        super().__init__(frame)
        self.id_prefix, self.object, self.chunk_object = name, name, f"{name}.chunk"

    def choice(self, number: int, choice: Choice) -> dict[str, Any]:
        return {"index": number, "text": choice.text, "finish_reason": choice.finish_reason}

    def delta(self, number: int, piece: Choice, start: int) -> dict[str, Any]:
        return self.choice(number, piece)


def rewriting(model: LoadedModel, body: RewriteRequest, name: str) -> tuple[list[Job], RewriteReply]:
    """Jobs and reply of a request; raises ApiError for a text that this model cannot read."""
    sources = [_source(model, body.prefix + text) for text in body.inputs]
    jobs = [
        Job(model, ids, body.max_tokens, body.sampling(number), body.stops, stop_ids(model))
        for number, ids in enumerate(sources)
    ]
    frame = Frame(model, sum(map(len, sources)), with_logprobs=False, with_usage=body.stream_options.include_usage)
    return jobs, RewriteReply(frame, name)


def searched(jobs: Sequence[Job], body: RewriteRequest, reply: RewriteReply) -> Work[dict[str, Any]]:
    """The reply with the likeliest whole texts."""
    choices = []
    for job in jobs:
        choices.append((yield from _searched(job, body)))
    return reply.whole(choices)


def _searched(job: Job, body: RewriteRequest) -> Work[Choice]:
    assert body.beams is not None
    ((best, *_),) = yield from searching(
        job.model.network,
        [job.ids],
        max_tokens=body.max_tokens,
        beams=body.beams,
        penalties=Sampling(repetition_penalty=body.repetition_penalty),
        stop_ids=job.stop_ids,
    )
    text = job.model.new_text()
    written = "".join(map(text.push, best.ids)) + text.finish()
    return Choice(text=written, finish_reason=best.reason, num_tokens=len(best.ids))


def stop_ids(model: LoadedModel) -> frozenset[int]:
    """What ends a text that this model writes."""
    config: Any = model.network.config
    ends = (config.end_id, model.codec.special_id("eos_token"), *getattr(config, "stop_ids", ()))
    return frozenset(token_id for token_id in ends if token_id is not None)


def _source(model: LoadedModel, text: str) -> tuple[int, ...]:
    ids = prompt_ids(model, text, "input")
    check_length(model, ids)
    return ids
