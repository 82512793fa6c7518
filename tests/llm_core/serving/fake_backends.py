"""vLLM's and llama.cpp's servers as far as the gateway sees them: their command lines, /health, and streams of tokens.

Run as ``python fake_backends.py vllm serve FOLDER ...`` or ``... llama-server -m FILE ...``. What the server of a model
says is in ``$FAKE_BACKENDS/NAME.json`` (see `Script`); what happened goes to ``NAME.log``, a JSON object a line. Fields
that the real servers do not know are refused, so that a misspelt setting cannot pass. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

FOLDER_VARIABLE = "FAKE_BACKENDS"
# A line separator, which JSON leaves as it is and which is no end of a line in server-sent events.
TEXT = "\u2028"
VLLM_FIELDS = {
    *("model", "prompt", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty"),
    *("seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user", "use_beam_search", "top_k"),
    *("min_p", "repetition_penalty", "length_penalty", "stop_token_ids", "include_stop_str_in_output", "ignore_eos"),
    *("min_tokens", "skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens"),
    *("allowed_token_ids", "prompt_logprobs", "add_special_tokens", "response_format", "priority", "request_id"),
    *("return_tokens_as_token_ids", "return_token_ids", "cache_salt", "vllm_xargs"),
}
LLAMA_FIELDS = {
    *(
        "prompt",
        "temperature",
        "dynatemp_range",
        "dynatemp_exponent",
        "top_k",
        "top_p",
        "min_p",
        "n_predict",
        "n_indent",
    ),
    *("n_keep", "n_cmpl", "n_cache_reuse", "stream", "stop", "typical_p", "repeat_penalty", "repeat_last_n"),
    *(
        "presence_penalty",
        "frequency_penalty",
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
    ),
    *("xtc_probability", "xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta", "grammar", "json_schema", "seed"),
    *(
        "ignore_eos",
        "logit_bias",
        "n_probs",
        "min_keep",
        "t_max_predict_ms",
        "id_slot",
        "cache_prompt",
        "return_tokens",
    ),
    *("samplers", "timings_per_token", "return_progress", "post_sampling_probs", "response_fields", "lora"),
}


class Told(NamedTuple):
    """A token as the model says it: id, log-probability, likeliest alternatives."""

    id: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


class Script:
    """What a model writes.

    ``texts``: whole texts, prompt included, each a list of [id, logprob, top] by place; a prompt that begins one is
    continued so. ``ids``: else these, over and over, by place behind ``offset`` and shifted by the seed where the
    request is not greedy. ``end_id``: where llama-server ends. ``delay``: seconds before each token. ``fault``: see
    where it is asked for; ``count`` tokens come before it.
    """

    def __init__(self, path: Path) -> None:
        given = json.loads(path.read_text())
        self.texts = [[Told(*told) for told in text] for text in given.get("texts", ())]
        self.ids: list[int] = given.get("ids", [0])
        self.offset: int = given.get("offset", 0)
        self.end_id: int | None = given.get("end_id")
        self.delay: float = given.get("delay", 0.0)
        self.fault: str = given.get("fault", "")
        self.count: int = given.get("count", 0)

    def known(self, prompt: Sequence[int]) -> Sequence[Told] | None:
        """The text that begins with this prompt."""
        return next((text for text in self.texts if [told.id for told in text[: len(prompt)]] == list(prompt)), None)

    def write(self, prompt: Sequence[int], shift: int, banned: set[int], forced: int | None) -> Iterator[Told]:
        """Tokens behind a prompt, for ever."""
        text, place = self.known(prompt), len(prompt)
        while True:
            told = text[place] if text and place < len(text) else None
            if told is None:
                token_id = self.ids[(place - self.offset + shift) % len(self.ids)]
                told = Told(token_id, 0.0, [(token_id, 0.0), *((other, -1.0 - other) for other in range(3, 23))])
            if forced is not None and told.id != forced:
                told = Told(forced, -0.5, told.top)
            while told.id in banned:
                told = Told(told.id + 1, -0.5, told.top)
            yield told
            place += 1


class Server(ThreadingHTTPServer):
    """One model's server."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, name: str, handler: type[Handler], key: str) -> None:
        super().__init__(("127.0.0.1", port), handler)
        folder = Path(os.environ[FOLDER_VARIABLE])
        self.name, self.key = name, key
        self.script = Script(folder / f"{name}.json")
        self._log, self._lock = folder / f"{name}.log", threading.Lock()
        self.has_hung = False

    def note(self, **facts: Any) -> None:
        """Write down what happened."""
        with self._lock, open(self._log, "a") as log:
            log.write(json.dumps(facts) + "\n")


class Handler(BaseHTTPRequestHandler):
    """What both servers have in common."""

    protocol_version = "HTTP/1.1"
    server: Server
    path_of_answers: str
    fields: set[str]

    def do_GET(self) -> None:
        if self.server.script.fault == "never well":
            self.reply(503, {"error": {"code": 503, "message": "Loading model"}})
        elif self.server.has_hung:
            time.sleep(60)
        else:
            self.reply(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.note(asked=body)
        if self.headers.get("authorization") != f"Bearer {self.server.key}":
            self.reply(401, {"error": {"message": "Invalid API Key"}})
        elif self.path != self.path_of_answers:
            self.reply(404, {"error": {"message": "Not Found"}})
        elif unknown := body.keys() - self.fields:
            self.reply(400, {"error": {"message": f"no such field: {sorted(unknown)}"}})
        elif self.server.script.fault == "refuses":
            self.reply(400, {"error": {"message": "this prompt is not to its liking"}})
        elif not body["stream"]:
            self.reply(200, self.whole(body))
        else:
            self.stream(body)

    def whole(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a request that is not streamed."""
        raise NotImplementedError

    def chunks(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The events of one that is."""
        raise NotImplementedError

    def stream(self, body: Mapping[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        num_sent = 0
        try:
            self.send(": a comment that keeps the connection alive\n\n")
            for chunk in self.chunks(body):
                if self.is_broken(num_sent):
                    break
                self.send(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n")
                num_sent += 1
            else:
                self.send("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
            self.server.note(told=num_sent)
        except (BrokenPipeError, ConnectionResetError):
            self.server.note(left=num_sent)
            self.close_connection = True

    def is_broken(self, num_sent: int) -> bool:
        """Do what the script says goes wrong; True where the stream ends by it."""
        script = self.server.script
        if num_sent < script.count:
            return False
        match script.fault:
            case "dies":
                os._exit(7)
            case "hangs":
                self.server.has_hung = True
                time.sleep(60)
            case "says nonsense":
                self.send("data: {nonsense\n\n")
            case "tells an error":
                self.send('data: {"error": {"message": "out of memory", "code": 500}}\n\n')
            case "cuts the stream":
                return True
            case "tells no ids":
                self.send('data: {"choices": [{"index": 0, "text": "a"}], "stop": false, "content": "a"}\n\n')
        return False

    def send(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def reply(self, status: int, content: Mapping[str, Any]) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def told(
        self, body: Mapping[str, Any], biases: Mapping[int, float], banned: set[int], limit: int
    ) -> Iterator[Told]:
        """So many tokens, each after the script's delay."""
        script = self.server.script
        shift = 0 if body.get("temperature", 1.0) == 0 else body["seed"]
        forced = next((token_id for token_id, bias in biases.items() if bias >= 100), None)
        for _, told in zip(range(limit), script.write(body["prompt"], shift, banned, forced), strict=False):
            time.sleep(script.delay)
            yield told


class Vllm(Handler):
    """`vllm serve`: OpenAI's completions, with token ids beside the text."""

    path_of_answers, fields = "/v1/completions", VLLM_FIELDS

    def whole(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        text = self.server.script.known(body["prompt"]) or [Told(token_id, -1.0) for token_id in body["prompt"]]
        places: list[Any] = [None]
        for told in text[1 : len(body["prompt"])]:
            logprobs = {told.id: told.logprob, **dict(told.top[: body["prompt_logprobs"]])}
            places.append({str(other): {"logprob": logprob, "rank": 1} for other, logprob in logprobs.items()})
        return {"choices": [{"index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": places}]}

    def chunks(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        stops = set(body["stop_token_ids"])
        assert body["model"] == self.server.name and body["ignore_eos"] and body["min_tokens"] <= body["max_tokens"]
        banned = stops if body["min_tokens"] else set()
        biases = {int(token_id): bias for token_id, bias in body["logit_bias"].items()}
        for num_written, told in enumerate(self.told(body, biases, banned, body["max_tokens"]), start=1):
            if num_written == body["min_tokens"]:
                banned.clear()
            reason = "stop" if told.id in stops else "length" if num_written == body["max_tokens"] else None
            choice = {"index": 0, "text": TEXT, "finish_reason": reason, "stop_reason": None, "token_ids": [told.id]}
            yield {"id": "cmpl-1", "choices": [{**choice, "logprobs": self._logprobs(body, told)}]}
            if reason:
                return

    def _logprobs(self, body: Mapping[str, Any], told: Told) -> Mapping[str, Any] | None:
        if body.get("logprobs") is None:
            return None
        top = {told.id: told.logprob, **dict(told.top[: body["logprobs"]])}
        named = {f"token_id:{other}": logprob for other, logprob in top.items()}
        return {
            "tokens": [f"token_id:{told.id}"],
            "token_logprobs": [told.logprob],
            "top_logprobs": [named],
            "text_offset": [0],
        }


class Llama(Handler):
    """llama-server: its own /completion."""

    path_of_answers, fields = "/completion", LLAMA_FIELDS

    def chunks(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        biases = {token_id: bias for token_id, bias in body["logit_bias"] if bias is not False}
        banned = {token_id for token_id, bias in body["logit_bias"] if bias is False}
        stop_type = "limit"
        for told in self.told(body, biases, banned, body["n_predict"]):
            chunk = {"index": 0, "content": TEXT, "tokens": [told.id], "stop": False, "id_slot": -1}
            if body["n_probs"]:
                top = [{"id": other, "logprob": logprob} for other, logprob in told.top[: body["n_probs"]]]
                chunk["completion_probabilities"] = [{"id": told.id, "logprob": told.logprob, "top_logprobs": top}]
            yield chunk
            if told.id == self.server.script.end_id:
                stop_type = "eos"
                break
        yield {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": stop_type, "truncated": False}


def main(program: str, arguments: Sequence[str]) -> None:
    """Listen as one of the two programs does."""
    parser = argparse.ArgumentParser(program)
    if program == "vllm":
        parser.add_argument("command", choices=["serve"])
        parser.add_argument("model")
        known = (
            "--max-model-len",
            "--max-num-seqs",
            "--dtype",
            "--gpu-memory-utilization",
            "--generation-config",
            "--seed",
        )
    else:
        parser.add_argument("-m", "--model")
        known = ("--parallel", "--ctx-size", "--threads", "--flash-attn", "--cache-type-k", "--cache-type-v", "--seed")
    for option in ("--host", *known):
        parser.add_argument(option)
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name", "--alias", dest="name")
    options = parser.parse_args(arguments)
    print(f"{program} of {options.name} is starting", flush=True)
    handler, key = (Vllm, "VLLM_API_KEY") if program == "vllm" else (Llama, "LLAMA_API_KEY")
    server = Server(options.port, options.name, handler, os.environ[key])
    server.note(arguments=list(arguments), pid=os.getpid())
    if not Path(options.model).exists() or server.script.fault == "dies at start":
        sys.exit(f"{options.model}: this model does not fit in memory")
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
