"""What is fetched from the hub, out of a local cache that looks like the hub's, and what an outage says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from llm_core.models import ModelError
from llm_core.models.hub import PATTERNS, fetch, is_repo_id

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one repository, and no network."""
    repository = tmp_path / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    return snapshot


def test_a_repository_in_the_cache_needs_no_network(cache: Path) -> None:
    assert fetch("owner/tiny").resolve() == cache.resolve()
    assert fetch("owner/tiny", COMMIT).resolve() == cache.resolve()


def test_what_is_not_there_without_a_network_is_one_clear_message(cache: Path) -> None:
    with pytest.raises(ModelError, match="owner/other: the hub is out of reach and its cache lacks the files"):
        fetch("owner/other")


@pytest.mark.parametrize(
    "problem", [LocalEntryNotFoundError("no connection"), OSError("name resolution failed"), "500"], ids=str
)
def test_an_outage_says_what_to_do(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if problem == "500":
        import httpx

        request = httpx.Request("GET", "https://hub")
        problem = HfHubHTTPError("500 Server Error", response=httpx.Response(500, request=request))

    def down(*arguments: Any, **options: Any) -> str:
        raise problem

    monkeypatch.setattr(huggingface_hub, "snapshot_download", down)
    with pytest.raises(ModelError, match=r"owner/tiny@v1: the hub is out of reach .* or give the folder"):
        fetch("owner/tiny", "v1")


def test_only_data_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **options: asked.update(options) or tmp_path)
    fetch("owner/tiny", "v1")
    assert asked == {"revision": "v1", "allow_patterns": list(PATTERNS)}
    assert not any(name.endswith((".py", ".bin", ".pt", "*")) for name in PATTERNS)


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("owner/tiny", True),
        ("gpt2", True),
        ("a/b/c", False),
        ("./tiny", False),
        ("/models/tiny", False),
        ("a.gguf", False),
    ],
)
def test_repositories_are_told_from_paths(source: str, is_one: bool) -> None:
    assert is_repo_id(source) == is_one
