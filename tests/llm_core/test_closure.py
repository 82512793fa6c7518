from __future__ import annotations

from pathlib import Path

import pytest

from llm_core import closure as closure_module
from llm_core.closure import ROOT, closure, closure_paths, code_digest


def test_a_closure_follows_imports_through_functions_and_packages() -> None:
    assert {"tasks.evaluate", "llm_core.evals.perplexity", "llm_core.tokenizer"} <= set(closure("tasks.evaluate"))


def test_the_recipe_classes_are_recorded_by_value_and_not_as_code() -> None:
    assert "llm_core.config" not in closure("tasks.clean")


def test_a_closure_holds_nothing_of_other_stages() -> None:
    others = [name for name in closure("tasks.clean") if name.startswith("tasks.") and name != "tasks.clean"]
    assert others == []


def test_paths_are_relative_files_of_the_project() -> None:
    assert all((ROOT / path).is_file() for path in closure_paths("tasks.train"))


def test_one_changed_byte_of_code_that_a_stage_needs_changes_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest() -> str:
        code_digest.cache_clear()
        return code_digest("tasks.one")

    files = {"tasks/one.py": "import llm_core.two\n", "llm_core/two.py": "X = 1\n", "llm_core/three.py": "Y = 1\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(closure_module, "ROOT", tmp_path)
    first = digest()
    (tmp_path / "llm_core" / "three.py").write_text("Y = 2\n")
    assert digest() == first
    (tmp_path / "llm_core" / "two.py").write_text("X = 2\n")
    assert digest() != first
    code_digest.cache_clear()
    closure.cache_clear()


def test_stages_have_code_digests_of_their_own() -> None:
    stages = ("collect", "clean", "tokenizer", "tokenize", "train", "evaluate")
    assert len({code_digest(f"tasks.{stage}") for stage in stages}) == len(stages)
