from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from llm_core.closure import ROOT
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.routes.page import FOLDER, MEDIA_TYPES

FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
# What makes markup or code out of text; the policy refuses them too, in browsers that know Trusted Types.
MAKES_MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser")


@pytest.fixture
def client(engine: Engine, host: Host) -> Iterator[TestClient]:
    with TestClient(create_app(Service(host, engine)), raise_server_exceptions=False) as client:
        yield client


def test_the_page_runs_its_own_files_only(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "style-src 'self'" in policy
    assert "unsafe" not in policy and "data:" not in policy and "http" not in policy
    assert "require-trusted-types-for 'script'" in policy and "frame-ancestors 'none'" in policy


def test_the_page_has_no_script_or_style_of_its_own(client: TestClient) -> None:
    page = client.get("/").text
    assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son[a-z]+=|javascript:", page)
    assert not re.search(r"https?://", page)


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_as_what_it_is(client: TestClient, name: str) -> None:
    response = client.get(f"/playground/{name}")
    assert response.status_code == 200 and response.content == (FOLDER / name).read_bytes()
    assert response.headers["content-type"] == MEDIA_TYPES["." + name.rsplit(".")[-1]]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == client.get("/").headers["content-security-policy"]


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    etag = client.get("/playground/style.css").headers["etag"]
    again = client.get("/playground/style.css", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"") and again.headers["etag"] == etag
    assert client.get("/playground/style.css", headers={"if-none-match": '"older"'}).status_code == 200


@pytest.mark.parametrize("name", ["absent.js", "service.py", "%2e%2e%2fservice.py", "..%2froutes%2fpage.py"])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/playground/{name}").status_code == 404


def test_every_file_that_the_page_asks_for_is_there() -> None:
    asked = re.findall(r'(?:src|href)="playground/([^"]+)"', (FOLDER / "index.html").read_text())
    imported = [name for script in SCRIPTS for name in re.findall(r'from "\./(.+?)"', (FOLDER / script).read_text())]
    assert {*asked, *imported} == set(FILES) - {"index.html"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_makes_markup_of_text_or_knows_another_host(script: str) -> None:
    source = (FOLDER / script).read_text()
    assert not MAKES_MARKUP.search(source) and not re.search(r"https?://", source)


def test_the_installed_package_holds_the_page() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["llm_core"]
    held = {path for pattern in patterns for path in (ROOT / "llm_core").glob(pattern)}
    assert {FOLDER / name for name in FILES} <= held
