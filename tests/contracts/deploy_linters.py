"""The tools that read deploy/ as a cluster and a container engine would; all work without a network.

Each takes a folder like deploy/ and gives back what is wrong, one line a problem.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

OLDEST_KUBERNETES = "1.30"
"""The first that pauses before SIGTERM without being told to."""
NOT_FOR_THE_CLUSTER = ("kustomization.yaml", "prometheus-adapter-values.yaml")
YAML_STYLE = (
    "{extends: default, rules: {line-length: {max: 120}, document-start: disable, braces: {max-spaces-inside: 1}, \
comments: {min-spaces-from-content: 2}, octal-values: {forbid-implicit-octal: true}, truthy: {level: error}}}"
)


def manifests(deploy: Path) -> dict[str, Any]:
    """The objects that the cluster gets, by file name."""
    files = sorted((deploy / "kubernetes").glob("*.yaml"))
    return {file.name: yaml.safe_load(file.read_text()) for file in files if file.name not in NOT_FOR_THE_CLUSTER}


def yaml_problems(deploy: Path) -> list[str]:
    """What yamllint says: keys given twice above all, of which a parser silently keeps one."""
    return _said("-m", "yamllint", "--strict", "-f", "parsable", "-d", YAML_STYLE, str(deploy))


def schema_problems(deploy: Path) -> list[str]:
    """What Kubernetes' own schemas say, of the oldest version that the manifests are for and of the newest known."""
    versions = (OLDEST_KUBERNETES, kubernetes_validate.latest_version())
    return [f"{name}: {said}" for name, found in manifests(deploy).items() for said in _refusals(found, versions)]


def compose_problems(deploy: Path) -> list[str]:
    """What the schema of compose files says."""
    return _said("-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(deploy / "compose.yaml"))


def image_problems(deploy: Path) -> list[str]:
    """What hadolint says, with ShellCheck's rules inside RUN; its reasons to look away are in the file."""
    program = Path(sys.executable).with_name("hadolint")
    return _lines([str(program), "--no-color", str(deploy / "Containerfile")])


def _refusals(manifest: dict[str, Any], versions: tuple[str, ...]) -> Iterator[str]:
    for version in versions:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as problem:
            yield f"{'.'.join(map(str, problem.path))}: {problem.message} (Kubernetes {version})"


def _said(*arguments: str) -> list[str]:
    return _lines([sys.executable, *arguments])


def _lines(command: list[str]) -> list[str]:
    """What a linter printed if it failed, and at least that it did."""
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return (said or [f"{command} ended with {done.returncode}"]) if done.returncode else []
