"""What the routes work with: the lines in memory and the engine that writes their answers."""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from llm_core.serving.abilities import routes_of
from llm_core.serving.callers import Caller
from llm_core.serving.canary import Trial
from llm_core.serving.engine import Draining, Engine
from llm_core.serving.errors import ApiError
from llm_core.serving.hosting import Host, Line
from llm_core.serving.judging import Judge
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.metrics import Metrics
from llm_core.serving.workers import Work, Workers

T = TypeVar("T")


class Service:
    """What the routes work with."""

    def __init__(
        self, host: Host, engine: Engine, most_seconds: float | None = None, indexes: Path | None = None
    ) -> None:
        self.host, self.engine, self.indexes = host, engine, indexes
        self.most_seconds = most_seconds
        """How long a request may take; None for as long as it needs."""
        self.workers = Workers()
        self.metrics = Metrics(host, engine, self.workers)
        self.judge = Judge(engine)
        for line in host.lines.values():
            line.observers.append(self.metrics)

    def named(self, name: str, caller: Caller) -> LoadedModel:
        """The model that goes by this name; raises ApiError (404, 403 for a key of other lines, 503 for none yet)."""
        line = self.host.line_of(name)
        if line is None:
            raise self._unknown(name)
        caller.require_line(line.name)
        champion = line.use()
        if champion is None:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, f"{line.name}: {_reason(line)}", "model_not_ready")
        if name == line.name or name in self.host.aliases:
            return champion
        for model in line.answering():
            if name == model.name:
                return model
        raise self._unknown(name)

    def trial(self, name: str) -> Trial | None:
        """The challenger of the line that is asked by this name; none for a certain version's."""
        line = self.host.line_of(name)
        return line.trial if line is not None and (name == line.name or name in self.host.aliases) else None

    def rate(self, response_id: str, value: float) -> None:
        """Let what somebody thinks of a response, from -1 to 1, count in the trial that it was part of."""
        for line in self.host.lines.values():
            if line.trial is not None:
                line.trial.rate(response_id, value)

    def able(self, name: str, route: str, caller: Caller) -> LoadedModel:
        """The model that goes by this name; raises ApiError also where `route` is not for models of its kind."""
        model = self.named(name, caller)
        possible = routes_of(model)
        if route not in possible:
            kind = f"{model.task} model" + (f" in {model.backend}" if model.backend != "tidemill" else "")
            message = f"{model.name} is a {kind} and cannot do {route}; it can do {', '.join(possible)}"
            raise ApiError(HTTPStatus.NOT_FOUND, message, "unsupported_task", "model")  # as at OpenAI
        return model

    @property
    def num_open(self) -> int:
        """Requests that have not got their answer."""
        return self.engine.num_open + self.workers.num_open

    async def work(self, work: Work[T]) -> T:
        """Do work of the kind that the engine does not do; raises EngineUnavailable where it cannot be taken now."""
        if self.engine.is_draining:
            raise Draining("the server is shutting down; ask again when it is back")
        return await self.workers.run(work)

    def state(self) -> dict[str, Any]:
        """Whether requests are answered, by which versions, and what the registry says."""
        lines = {name: _line_state(line) for name, line in self.host.lines.items()}
        is_served = any(line.champion and not line.champion.runner.trouble for line in self.host.lines.values())
        status = "draining" if self.engine.is_draining else "ready" if is_served else "waiting"
        return {"status": status, "line": self.host.first.name, **lines[self.host.first.name], "lines": lines}

    def _unknown(self, name: str) -> ApiError:
        names = [*self.host.lines, *self.host.aliases, *(model.name for model in self.host.answering())]
        message = f"the model {name!r} is not served here; there are {', '.join(map(repr, names))}"
        return ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found", "model")


def _line_state(line: Line) -> dict[str, Any]:
    described = describe(line.champion) if line.champion else None
    previous = line.previous.name if line.previous else None
    trial = line.trial.state() if line.trial else None
    trouble = line.champion.runner.trouble if line.champion else None
    return {
        "model": described,
        "previous": previous,
        "trial": trial,
        "trouble": trouble,
        "registry": asdict(line.following),
    }


def _reason(line: Line) -> str:
    """Why nothing is served."""
    following = line.following
    if following.refused:
        return f"the champion {following.refused} is refused ({following.refused_because})"
    if following.registry_error:
        return f"the registry cannot be asked ({following.registry_error})"
    if following.champion:
        return f"the champion {following.champion} is being loaded"
    return "no champion is registered yet; tidemill run makes one"


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


def describe(model: LoadedModel) -> dict[str, Any]:
    """Facts about a version that need no registry."""
    return {
        "name": model.name,
        "version": model.version.version,
        "artifact": model.version.artifact,
        "key": model.version.key,
        "context": model.context,
        "vocab_size": model.codec.vocab_size,
        "num_parameters": model.num_parameters,
        "has_chat_template": model.chat is not None,
        "task": model.task,
        "routes": routes_of(model),
        "backend": model.backend,
    }


def listed(name: str, model: LoadedModel) -> dict[str, Any]:
    """A model as OpenAI's lists have it."""
    # The age of a version is the registry's to know; clients only need the field.
    return {"id": name, "object": "model", "created": 0, "owned_by": "tidemill", "tidemill": describe(model)}
