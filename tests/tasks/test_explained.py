"""Explanations are drawn for people: tokens and their shares, where they look, and what was read that is like it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.evals.nearest import nearest
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from tasks.explain_page import explain_page
from tasks.explained import explained, load, training_index
from tasks.workspace import Workspace
from tests.tasks.tiny_model import publish

TEXT = "The state of"


@pytest.mark.parametrize("family", ["llama", "lstm"])
def test_tokens_shares_and_maps_are_on_the_page(tmp_path: Path, family: str) -> None:
    model = load("tiny@1", publish(tmp_path / "model", family).path)
    found = explained(model, TEXT, steps=4)
    assert found.written and not found.searched
    page = explain_page("tiny@1", [found])
    words = re.search(r'<p class="words">(.*?)</p>', page)
    assert words and re.sub(r"<[^>]*>", "", words[1]) == f"&lt;|endoftext|&gt;{TEXT}"
    strongest = max(found.reply.tokens, key=lambda token: abs(token.attribution))
    assert f'--strength:100%" title="{strongest.attribution:+.4f}"' in page
    assert page.count("<svg") == (0 if family == "lstm" else 4)  # rollout, the layer, its two heads
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org/2000/svg", "").replace(
        "http-equiv", ""
    )


def test_a_given_target_is_explained_and_a_long_text_refused(tmp_path: Path) -> None:
    model = load("tiny@1", publish(tmp_path / "model").path)
    assert explained(model, TEXT, " our union", steps=2).reply.target == " our union"
    with pytest.raises(ValueError, match="shorten it"):
        explained(model, "One, two and three. " * 40, steps=2)


def test_only_the_documents_that_it_was_trained_on_are_searched(tmp_path: Path, cleaned: Artifact) -> None:
    ws = Workspace(root=tmp_path, home=tmp_path / ".tidemill")
    assert training_index(ws, publish(tmp_path / "model")) is None  # nothing lies there
    shutil.copytree(cleaned.path, ws.out / "clean")
    with Draft(ws.out / "tokenize", "tokens", "tokenize", parents={"clean": cleaned.digest}) as out:
        tokens = out.publish({})
    with Draft(tmp_path / "trained", "model", "train", parents={"tokenize": tokens.digest}) as out:
        model = out.publish({})
    index = training_index(ws, model)
    assert index is not None and index == training_index(ws, model)
    for entry in read_documents(cleaned.path, CleanDocument):
        (*_, found) = [None, *nearest(index, entry.text, count=1)]
        assert (found is not None and found.sha256 == entry.sha256) == (entry.split == "train")
    assert training_index(ws, publish(tmp_path / "other")) is None


def test_a_planted_passage_is_shown_with_its_document(tmp_path: Path) -> None:
    from llm_core.evals.nearest import Source, make_index

    make_index([Source("a" * 64, "texts/a.txt", f"Before. {TEXT} the union, as it was <then>.")], tmp_path / "index")
    model = load("tiny@1", publish(tmp_path / "model", "bert", "sequence_classification").path)
    found = explained(model, f"{TEXT} the union", steps=2, index=tmp_path / "index")
    assert [(each.num_words, each.source) for each in found.passages] == [(5, "texts/a.txt")]
    page = explain_page("tiny@1", [found])
    assert "as it was &lt;then&gt;" in page and "texts/a.txt" in page
