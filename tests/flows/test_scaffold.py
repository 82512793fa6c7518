"""A recipe of one's own: written once, valid, and with the header that every recipe has."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.scaffold import recipe_headers, scaffold
from llm_core.config import RecipeError, load_recipe
from tasks.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    (tmp_path / "configs").mkdir()
    header = "# command:  make run\n# hardware: any\n# time:     short\n# result:   good\n"
    (tmp_path / "configs" / "demo.yaml").write_text(f"{header}\nname: demo\n")
    return Workspace(root=tmp_path, home=tmp_path / ".tidemill")


def test_the_new_recipe_reads_the_new_folder_and_has_a_line_of_its_own(ws: Workspace) -> None:
    path, folder = scaffold(ws, "novels", None)
    recipe = load_recipe("novels", ws.configs)
    assert path == ws.configs / "novels.yaml" and folder == ws.root / "texts" / "novels" and folder.is_dir()
    assert (recipe.collect.sources, recipe.register_.line) == (("texts/novels",), "novels")
    assert [header["recipe"] for header in recipe_headers(ws.configs)] == ["demo", "novels"]


def test_texts_may_lie_elsewhere(ws: Workspace, tmp_path: Path) -> None:
    _, folder = scaffold(ws, "novels", tmp_path / "books")
    assert folder == tmp_path / "books"
    assert load_recipe("novels", ws.configs).collect.sources == ((tmp_path / "books").as_posix(),)


@pytest.mark.parametrize("name", ["Novels", "my novels", "-x", "../up"])
def test_a_name_that_cannot_be_a_line_writes_nothing(ws: Workspace, name: str) -> None:
    with pytest.raises(RecipeError, match="small letters, digits and dashes"):
        scaffold(ws, name, None)
    assert [path.name for path in ws.configs.iterdir()] == ["demo.yaml"]


def test_a_recipe_that_is_there_stays_as_it_is(ws: Workspace) -> None:
    before = (ws.configs / "demo.yaml").read_text()
    with pytest.raises(RecipeError, match="exists already"):
        scaffold(ws, "demo", None)
    assert (ws.configs / "demo.yaml").read_text() == before


def test_a_header_that_lacks_a_field_is_named(ws: Workspace) -> None:
    (ws.configs / "bare.yaml").write_text("# command: none\n\nname: bare\n")
    with pytest.raises(RecipeError, match=r"bare\.yaml: its header lacks hardware, time, result"):
        recipe_headers(ws.configs)
