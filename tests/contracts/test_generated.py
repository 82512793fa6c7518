"""Files that are made from the code are what the code makes now (make generate mends them)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.scaffold import recipe_header
from llm_core.config import load_recipe, recipe_names, recipe_schema
from llm_core.inventory import Inventory, take_inventory
from tasks.__main__ import HEADER
from tasks.stages import RUN_HEADER, STAGES, dvc_pipeline
from tests.contracts.documents import DOCUMENTS, render

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TOP_LEVEL = {"flows", "tasks", "llm_core", "configs", "tests", "benchmarks", "docs", "deploy"}


def committed(path: Path) -> str:
    """The file as it was committed; a run rewrites the one in the workspace."""
    name = path.relative_to(ROOT).as_posix()
    done = subprocess.run(["git", "-C", str(ROOT), "show", f"HEAD:{name}"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else path.read_text(encoding="utf-8")


def test_dvc_has_the_same_stages_as_the_flows() -> None:
    assert (ROOT / "dvc.yaml").read_text() == HEADER + yaml.safe_dump(dvc_pipeline(), sort_keys=False)
    assert list(dvc_pipeline()["stages"]) == list(STAGES)


def test_every_file_that_dvc_depends_on_exists() -> None:
    deps = {dep for stage in dvc_pipeline()["stages"].values() for dep in stage["deps"]}
    assert [dep for dep in deps if not dep.startswith("out/") and not (ROOT / dep).is_file()] == []


def test_the_shipped_run_recipe_is_the_resolved_demo() -> None:
    demo = load_recipe("demo", CONFIGS).resolved()
    assert committed(CONFIGS / "run.yaml") == RUN_HEADER + yaml.safe_dump(demo, sort_keys=False, allow_unicode=True)


def test_the_shipped_inventory_is_the_demos(tmp_path: Path) -> None:
    demo = load_recipe("demo", CONFIGS)
    (tmp_path / "inventory.json").write_text(committed(CONFIGS / "inventory.json"), encoding="utf-8")
    shipped = Inventory.read(tmp_path / "inventory.json", ROOT)
    assert shipped == take_inventory(demo.collect, ROOT)


def test_the_schema_for_editors_is_the_recipe_classes() -> None:
    assert json.loads((ROOT / "docs" / "recipe.schema.json").read_text()) == recipe_schema()


@pytest.mark.parametrize("name", recipe_names(CONFIGS))
def test_every_shipped_recipe_is_valid_and_says_command_hardware_time_and_result(name: str) -> None:
    assert load_recipe(name, CONFIGS).name == name
    assert all(recipe_header(CONFIGS / f"{name}.yaml").values())


@pytest.mark.parametrize("path", DOCUMENTS)
def test_generated_parts_of_documents_are_fresh(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert render(text) == text, "run: make generate"


def test_the_top_level_is_the_fixed_one() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    folders = {path.split("/")[0] for path in listed.splitlines() if "/" in path}
    assert {folder for folder in folders if not folder.startswith(".")} <= TOP_LEVEL
