"""llama.cpp: `llama-server` on a GGUF file of the version, asked through /completion with token ids in and out."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llm_core.generate import Token
from llm_core.serving.backends.events import events, strange
from llm_core.serving.backends.program import BackendError, Request, find_program

if TYPE_CHECKING:
    import httpx

    from llm_core.kernels import Precision
    from llm_core.models import Network
    from llm_core.models.gguf_export import Format
    from llm_core.serving.settings import RunnerSettings

ADVICE = "build or download llama-server of llama.cpp (github.com/ggml-org/llama.cpp)"
PATH = "/completion"
FORMATS: Mapping[Precision, Format] = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}
# The order in which our own engine applies them; logit_bias comes first in both.
SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
FORCED = 1e9
"""A bias that no logit outweighs."""
RANDOM_SEED = 2**32 - 1
"""The one seed that means none."""


def find() -> str:
    """The program's path; raises NotInstalled."""
    return find_program("llama-server", "TIDEMILL_LLAMA_SERVER", f"backend llama.cpp: {ADVICE}")


class LlamaCpp:
    """One model version in llama-server, out of a file that is written for it and goes with it."""

    name = "llama-server"
    # By default it keeps up to 8 GiB of old prompts in memory.
    environment: Mapping[str, str] = MappingProxyType({"LLAMA_ARG_CACHE_RAM": "0"})

    def __init__(self, name: str, network: Network, settings: RunnerSettings) -> None:
        from llm_core.models.gguf_export import write_gguf

        self._program = find()
        self._folder = tempfile.TemporaryDirectory(prefix="tidemill-")
        self._file = Path(self._folder.name) / "model.gguf"
        write_gguf(network, None, self._file, FORMATS[settings.precision])
        self._sha256 = _sha256(self._file)
        is_exact = settings.precision == "float32"
        self.max_running = _num_slots(network, settings, 4 if is_exact else 2)
        self._arguments = [
            *("--alias", name),
            *("--parallel", str(self.max_running)),
            *("--ctx-size", str(self.max_running * network.config.context)),
            *("--threads", str(settings.threads)),
            # Its defaults round keys and values, and what attention adds up, to 16 bits.
            *(("--flash-attn", "off", "--cache-type-k", "f32", "--cache-type-v", "f32") if is_exact else ()),
            *settings.backend_args,
        ]

    def command(self, port: int) -> list[str]:
        """Program and arguments to listen on this port."""
        return [self._program, "-m", str(self._file), "--host", "127.0.0.1", "--port", str(port), *self._arguments]

    def verify(self) -> None:
        """Raise BackendError where the file has changed since it was written."""
        if _sha256(self._file) != self._sha256:
            raise BackendError(f"{self._file}: its sha256 is not that of what was written")

    async def read(self, client: httpx.AsyncClient, request: Request) -> AsyncGenerator[Token]:
        """The prompt's tokens, each forced behind those before it: the server tells what it draws and nothing else."""
        for place in range(1, len(request.ids)):
            forced = {"logit_bias": [[request.ids[place], FORCED]], "temperature": 0.0, "samplers": ["temperature"]}
            body = {**self._common(request.ids[:place], 1, request), **forced}
            async with aclosing(_tokens(client, body, request)) as tokens:
                async for token in tokens:
                    yield token

    async def write(self, client: httpx.AsyncClient, request: Request) -> AsyncGenerator[Token]:
        """The answer's tokens, in one stretch or in several.

        The server has no least length, and always ends at the end-of-text id: so stop ids are banned in a first
        stretch, and where the id is a token like others, a next stretch goes on behind it.
        """
        written: list[int] = []
        limit = request.limit
        while len(written) < limit:
            before, is_banned = len(written), bool(request.stop_ids) and len(written) < request.sampling.min_tokens
            room = min(limit, request.sampling.min_tokens) if is_banned else limit
            body = self._body(request, written, room - before, is_banned)
            async with aclosing(_tokens(client, body, request)) as tokens:
                async for token in tokens:
                    written.append(token.id)
                    yield token
            if len(written) == before:
                raise BackendError("it ended the answer without a token")
            if written[-1] in request.stop_ids:
                return

    def _body(self, request: Request, written: list[int], limit: int, is_banned: bool) -> dict[str, Any]:
        sampling = request.sampling
        banned = [[token_id, False] for token_id in sorted(request.stop_ids)] if is_banned else []
        return {
            **self._common((*request.ids, *written), limit, request),
            "samplers": SAMPLERS,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": len(request.ids) + len(written) + limit,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": [[token_id, bias] for token_id, bias in sampling.logit_bias.items()] + banned,
            "seed": _seed(sampling.seed, len(written)),
        }

    def _common(self, ids: tuple[int, ...], limit: int, request: Request) -> dict[str, Any]:
        num_probs = max(1, request.num_top) if request.tells_logprobs else 0
        return {
            "prompt": list(ids),
            "n_predict": limit,
            "n_probs": num_probs,
            "return_tokens": True,
            "cache_prompt": True,
        }


async def _tokens(client: httpx.AsyncClient, body: Mapping[str, Any], request: Request) -> AsyncGenerator[Token]:
    """A stretch's tokens, up to the event that says why it ended."""
    async with aclosing(events(client, PATH, body)) as told:
        async for event in told:
            try:
                if event["stop"]:
                    return
                token = _token(event, request)
            except (LookupError, TypeError, ValueError) as problem:
                raise strange(event, problem) from None
            yield token
    raise BackendError("its stream ended in the middle of the answer")


def _token(event: Mapping[str, Any], request: Request) -> Token:
    (token_id,) = event["tokens"]
    if not request.tells_logprobs:
        return Token(int(token_id), math.nan)
    (told,) = event["completion_probabilities"]
    top = tuple((int(other["id"]), float(other["logprob"])) for other in told["top_logprobs"][: request.num_top])
    return Token(int(token_id), float(told["logprob"]), top)


def _num_slots(network: Network, settings: RunnerSettings, number_bytes: int) -> int:
    """Answers at the same time, for each of which the server sets memory for a whole context aside."""
    config = network.config
    each = 2 * number_bytes * config.num_layers * config.num_kv_heads * config.head_size * config.context
    if settings.cache_bytes < each:
        raise ValueError(
            f"cache_bytes {settings.cache_bytes} holds less than one text of {config.context} tokens; "
            f"give at least {each}"
        )
    return min(settings.max_running, settings.cache_bytes // each)


def _seed(seed: int, num_written: int) -> int:
    """Thirty-two bits out of our sixty-four, other ones for each stretch."""
    digest = hashlib.blake2b(f"{seed} {num_written}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % RANDOM_SEED


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
