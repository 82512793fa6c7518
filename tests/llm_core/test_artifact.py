from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm_core import artifact as artifact_module
from llm_core.artifact import Artifact, ArtifactError, Draft


def publish(target: Path, content: str = "text", **draft: object) -> Artifact:
    with Draft(target, kind="documents", stage="clean", **draft) as out:  # type: ignore[arg-type]
        (out.path / "deep").mkdir()
        (out.path / "deep" / "a.txt").write_text(content)
        return out.publish({"kept": 3}, {"threads": 2})


def test_what_was_published_is_read_back_and_verified(tmp_path: Path) -> None:
    made = publish(tmp_path / "clean", recipe={"clean": {"a": 1}}, parents={"collect": "0" * 64}, code="c")
    found = Artifact.open(tmp_path / "clean", "documents")
    assert found == made
    assert (found.stats["kept"], found.parents["collect"], found.recipe["clean"]["a"]) == (3, "0" * 64, 1)


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    assert publish(tmp_path / "a").digest == publish(tmp_path / "b" / "c").digest


def test_any_changed_origin_changes_key_and_digest(tmp_path: Path) -> None:
    base = publish(tmp_path / "base")
    origins = ({"recipe": {"x": 1}}, {"parents": {"x": "1"}}, {"code": "1"})
    others = [publish(tmp_path / f"other{index}", **origin) for index, origin in enumerate(origins)]
    assert len({base.key, *(other.key for other in others)}) == 4
    assert len({base.digest, *(other.digest for other in others)}) == 4


def test_content_alone_changes_the_digest_and_not_the_key(tmp_path: Path) -> None:
    one, two = publish(tmp_path / "one", "text"), publish(tmp_path / "two", "texts")
    assert one.key == two.key
    assert one.digest != two.digest


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Draft(tmp_path / "clean", "documents", "clean") as out:
        (out.path / "half.txt").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_older_artifact_whole(tmp_path: Path) -> None:
    older = publish(tmp_path / "clean")
    with pytest.raises(RuntimeError), Draft(tmp_path / "clean", "documents", "clean"):
        raise RuntimeError
    assert Artifact.open(tmp_path / "clean") == older


def test_an_older_artifact_is_never_taken_apart_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "clean", "old")
    removed: list[Path] = []
    monkeypatch.setattr(artifact_module.shutil, "rmtree", lambda path, **_: removed.append(path))
    publish(tmp_path / "clean", "new")
    assert removed and tmp_path / "clean" not in removed


def test_a_killed_writer_leaves_no_artifact_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "clean"
    code = f"""
import os, signal
from pathlib import Path
from llm_core.artifact import Draft
with Draft(Path({str(target)!r}), "documents", "clean") as out:
    (out.path / "half.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(ArtifactError, match="no artifact here"):
        Artifact.open(target)
    assert set(publish(target).files) == {"deep/a.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["clean"]


@pytest.mark.parametrize(
    ("tamper", "match"),
    [
        (lambda folder: (folder / "deep/a.txt").write_text("t3xt"), "deep/a.txt: sha256 is not the manifest's"),
        (lambda folder: (folder / "deep/a.txt").unlink(), "deep/a.txt: is missing"),
        (lambda folder: (folder / "extra").write_text(""), "extra: is not in the manifest"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: not a manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 99}'), "format 99, this version reads 1"),
    ],
)
def test_tampering_is_refused_by_name_with_the_way_to_mend_it(tmp_path: Path, tamper: object, match: str) -> None:
    publish(tmp_path / "clean")
    tamper(tmp_path / "clean")  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=match) as caught:
        Artifact.open(tmp_path / "clean")
    assert "run" in str(caught.value)


def test_a_link_in_an_artifact_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "clean")
    place = tmp_path / "clean" / "deep" / "a.txt"
    os.replace(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="is a link"):
        Artifact.open(tmp_path / "clean")


def test_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "clean")
    with pytest.raises(ArtifactError, match="is a documents artifact, tokens is needed"):
        Artifact.open(tmp_path / "clean", "tokens")


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"), Draft(tmp_path / "file" / "clean", "d", "clean"):
        pass


def test_the_manifest_names_no_time_host_or_run(tmp_path: Path) -> None:
    publish(tmp_path / "clean")
    manifest = json.loads((tmp_path / "clean" / "manifest.json").read_text())
    expected = {"format", "kind", "key", "files", "stats", "circumstances", "recipe", "parents", "code", "stage"}
    assert set(manifest) == expected
