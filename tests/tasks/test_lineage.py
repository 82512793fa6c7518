from __future__ import annotations

from pathlib import Path

from llm_core.config import load_recipe
from llm_core.inventory import Inventory, SourceFile
from tasks.lineage import Code, Records, intent, run_facts
from tasks.workspace import Workspace


def test_uncommitted_code_goes_with_a_run_and_what_runs_write_does_not(project: Workspace) -> None:
    (project.root / "configs" / "run.yaml").write_text("written by a run\n")
    (project.root / "dvc.lock").write_text("written by DVC\n")
    clean = Code.of(project.root)
    assert len(clean.commit) == 40 and clean.diff == ""
    with open(project.root / "tasks" / "clean.py", "a") as file:
        file.write("CHANGED = True\n")
    assert "+CHANGED = True" in Code.of(project.root).diff
    facts = run_facts(project, load_recipe("tiny", project.configs), "flow")
    assert (facts["git.commit"], facts["git.dirty"], facts["prefect.flow_run_id"]) == (clean.commit, "true", "flow")
    assert facts["data.license"].startswith("public domain")


def test_without_git_there_is_no_commit(tmp_path: Path) -> None:
    assert Code.of(tmp_path) == Code(commit="none", diff="")


def test_runs_of_one_recipe_on_the_same_files_have_one_intent(project: Workspace) -> None:
    recipe = load_recipe("tiny", project.configs)
    one = Inventory((SourceFile("a.txt", 1, "0" * 64),), project.root)
    assert intent(recipe, one) == intent(recipe, Inventory(one.files, Path("elsewhere")))
    assert intent(recipe, one) != intent(recipe, Inventory((), project.root))
    assert intent(recipe, one) != intent(recipe.model_copy(update={"seed": 2}), one)


def test_records_say_who_made_an_artifact_in_order(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for state in ("made", "restored"):
        records.add("digest", {"state": state})
    records.add("another", {"state": "made"})
    found = Records(tmp_path).of("digest")
    assert [record["state"] for record in found] == ["made", "restored"]
    assert all(record["host"] and record["user"] and record["at"] for record in found)
