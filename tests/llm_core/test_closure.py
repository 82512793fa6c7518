from __future__ import annotations

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


def test_stages_have_code_digests_of_their_own() -> None:
    stages = ("collect", "clean", "tokenizer", "tokenize", "train", "evaluate")
    assert len({code_digest(f"tasks.{stage}") for stage in stages}) == len(stages)
