"""vLLM: `vllm serve`, asked through /v1/completions with token ids in and out."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llm_core.generate import Token
from llm_core.models.interface import ModelError
from llm_core.serving.backends.events import ask, events, strange
from llm_core.serving.backends.program import BackendError, Request, find_program

if TYPE_CHECKING:
    import httpx

    from llm_core.models import Network
    from llm_core.serving.settings import RunnerSettings

LEAST_VERSION = "0.10.2"
"""The first that tells token ids."""
HINT = f"is it vLLM {LEAST_VERSION} or later?"
ADVICE = f"pip install 'vllm>={LEAST_VERSION}' on a machine with a GPU"
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel")
GPU_SHARE = "0.3"
"""Of the GPU's memory for each version: the champion, the one before and the next one are in memory at once."""
PATH = "/v1/completions"
ID_MARK = "token_id:"


def find() -> str:
    """The program's path; raises NotInstalled."""
    return find_program("vllm", "TIDEMILL_VLLM", f"backend vllm: {ADVICE}")


class Vllm:
    """One model version in vLLM, read from its artifact's folder."""

    name = "vllm"
    # The model is a folder: nothing is to be fetched, and nobody is to be told.
    environment: Mapping[str, str] = MappingProxyType({"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"})

    def __init__(
        self, name: str, folder: Path, network: Network, settings: RunnerSettings, verify: Callable[[], None]
    ) -> None:
        if network.architecture not in ARCHITECTURES:
            raise ModelError(f"backend vllm runs {', '.join(ARCHITECTURES)}, not {network.architecture}")
        if settings.precision == "int8" and "--quantization" not in settings.backend_args:
            raise ValueError("precision int8: say how vLLM is to quantize, as --backend-args '--quantization fp8'")
        self.verify = verify
        self.max_running = settings.max_running
        self._model = name
        dtype = "auto" if settings.precision == "int8" else settings.precision
        self._arguments = [
            *("--served-model-name", name),
            *("--max-model-len", str(network.config.context)),
            *("--max-num-seqs", str(settings.max_running)),
            *("--dtype", dtype),
            *("--gpu-memory-utilization", GPU_SHARE),
            # Every setting comes with the request; the folder's own defaults are not to be mixed in.
            *("--generation-config", "vllm"),
            *settings.backend_args,
        ]
        self._program, self._folder = find(), folder

    def command(self, port: int) -> list[str]:
        """Program and arguments to listen on this port."""
        listen = ["--host", "127.0.0.1", "--port", str(port)]
        return [self._program, "serve", str(self._folder), *listen, *self._arguments]

    async def read(self, client: httpx.AsyncClient, request: Request) -> AsyncGenerator[Token]:
        """The prompt's tokens; vLLM tells them of answers that are not streamed only."""
        body = {"model": self._model, "prompt": list(request.ids), "max_tokens": 1, "prompt_logprobs": request.num_top}
        answer = await ask(client, PATH, body)
        try:
            told = answer["choices"][0]["prompt_logprobs"][1:]
            tokens = [
                _prompt_token(token_id, place, request.num_top)
                for token_id, place in zip(request.ids[1:], told, strict=True)
            ]
        except (LookupError, TypeError, ValueError) as problem:
            raise strange(answer, problem, HINT) from None
        for token in tokens:
            yield token

    async def write(self, client: httpx.AsyncClient, request: Request) -> AsyncGenerator[Token]:
        """The answer's tokens."""
        async with aclosing(events(client, PATH, self._body(request))) as told:
            async for event in told:
                for choice in event.get("choices", ()):
                    try:
                        tokens = _tokens(choice, request)
                    except (LookupError, TypeError, ValueError) as problem:
                        raise strange(event, problem, HINT) from None
                    for token in tokens:
                        yield token
                    if choice.get("finish_reason"):
                        return
        raise BackendError("its stream ended in the middle of the answer")

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        return {
            "model": self._model,
            "prompt": list(request.ids),
            "max_tokens": request.limit,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": {str(token_id): bias for token_id, bias in sampling.logit_bias.items()},
            "seed": sampling.seed % 2**63,  # it takes signed numbers, and -1 for none
            # What ends an answer is the gateway's to say, whatever the model's config holds.
            "ignore_eos": True,
            "stop_token_ids": sorted(request.stop_ids),
            "min_tokens": min(sampling.min_tokens, request.limit) if request.stop_ids else 0,
            "return_token_ids": True,
            **({"logprobs": request.num_top, "return_tokens_as_token_ids": True} if request.tells_logprobs else {}),
        }


def _tokens(choice: Mapping[str, Any], request: Request) -> list[Token]:
    ids = choice["token_ids"]
    if not request.tells_logprobs:
        return [Token(int(token_id), math.nan) for token_id in ids]
    told = choice["logprobs"] if ids else {"token_logprobs": [], "top_logprobs": []}
    places = zip(ids, told["token_logprobs"], told["top_logprobs"], strict=True)
    return [
        Token(int(token_id), float(logprob), _top(_by_id(top), request.num_top)) for token_id, logprob, top in places
    ]


def _by_id(top: Mapping[str, float]) -> dict[int, float]:
    return {int(name.removeprefix(ID_MARK)): float(logprob) for name, logprob in top.items()}


def _top(logprobs: Mapping[int, float], count: int) -> tuple[tuple[int, float], ...]:
    """The likeliest; the token that was drawn comes with them, whether or not it is one."""
    return tuple(sorted(logprobs.items(), key=lambda entry: -entry[1])[:count])


def _prompt_token(token_id: int, place: Mapping[str, Any], num_top: int) -> Token:
    logprobs = {int(other): float(entry["logprob"]) for other, entry in place.items()}
    return Token(token_id, logprobs[token_id], _top(logprobs, num_top))
