"""The files of deploy/ are what their tools and the code call right, and each check finds what it is there for."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts import deploy_linters as linters
from tests.contracts import deploy_rules as rules
from tests.contracts.deploy_rules import ROOT

DEPLOY = ROOT / "deploy"
Check = Callable[[Path], list[str]]
CHECKS: tuple[Check, ...] = (
    linters.yaml_problems,
    linters.schema_problems,
    linters.compose_problems,
    linters.image_problems,
    rules.probe_problems,
    rules.port_problems,
    rules.ending_problems,
    rules.security_problems,
    rules.scaling_problems,
    rules.mount_problems,
    rules.command_problems,
    rules.reference_problems,
    rules.build_problems,
)
POD, SCALER, IMAGE, COMPOSE = (
    "kubernetes/deployment.yaml",
    "kubernetes/autoscaler.yaml",
    "Containerfile",
    "compose.yaml",
)
MADE, ADAPTER = "kubernetes/kustomization.yaml", "kubernetes/prometheus-adapter-values.yaml"
BASE = "python:3.11.14-slim-bookworm"
BREAKS: tuple[tuple[Check, str, str, str, str], ...] = (
    (linters.yaml_problems, POD, "      enableServiceLinks: false", "      containers: []", "duplication of key"),
    (linters.yaml_problems, COMPOSE, "read_only: true", "read_only: yes", "truthy"),
    (linters.schema_problems, POD, "containerPort: 8000", 'containerPort: "8000"', "is not of type 'integer'"),
    (linters.schema_problems, POD, "readinessProbe:", "readyProbe:", "'readyProbe' was unexpected"),
    (linters.schema_problems, SCALER, "maxReplicas: 8\n", "\n", "'maxReplicas' is a required property"),
    (linters.schema_problems, SCALER, "autoscaling/v2", "autoscaling/v1", "Kubernetes 1"),
    (linters.compose_problems, COMPOSE, "restart: unless", "restarts: unless", "'restarts' was unexpected"),
    (linters.compose_problems, COMPOSE, "cap_drop: [ALL]", "cap_drop: ALL", "is not of type 'array'"),
    (linters.image_problems, IMAGE, f"{BASE} AS base", "python AS base", "DL3006"),
    (linters.image_problems, IMAGE, f"{BASE} AS base", "python:latest AS base", "DL3007"),
    (linters.image_problems, IMAGE, 'CMD ["serve", "--host", "0.0.0.0"]', "CMD serve", "DL3025"),
    (linters.yaml_problems, POD, "defaultMode: 288", "defaultMode: 0440", "octal"),
    (rules.probe_problems, POD, "livenessProbe:", "startupProbe2:", "livenessProbe asks {}"),
    (rules.probe_problems, POD, "{path: /ready, port: http}", "{path: /readyz, port: http}", "readinessProbe asks"),
    (rules.probe_problems, POD, "{path: /ready, port: http}", "{path: /ready, port: web}", "readinessProbe asks"),
    (rules.port_problems, POD, "containerPort: 8000", "containerPort: 8080", "deployment.yaml: 8080"),
    (rules.port_problems, IMAGE, "EXPOSE 8000", "EXPOSE 80", "EXPOSE: 80"),
    (rules.port_problems, "kubernetes/service.yaml", "targetPort: http", "targetPort: web", "'web' is no port"),
    (
        rules.ending_problems,
        POD,
        "terminationGracePeriodSeconds: 60",
        "terminationGracePeriodSeconds: 45",
        "killed after",
    ),
    (rules.ending_problems, POD, "preStop:", "postStart:", "the pause before SIGTERM is 0 s"),
    (rules.ending_problems, POD, "maxUnavailable: 0", "maxUnavailable: 1", "takes replicas away"),
    (rules.ending_problems, COMPOSE, "stop_grace_period: 45s", "stop_grace_period: 30s", "kills too early"),
    (rules.security_problems, POD, "runAsNonRoot: true", "runAsNonRoot: false", "runs as root"),
    (
        rules.security_problems,
        POD,
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "root can be written",
    ),
    (rules.security_problems, POD, "drop: [ALL]", "add: [SYS_ADMIN]", "keeps capabilities"),
    (rules.security_problems, POD, "type: RuntimeDefault", "type: Unconfined", "seccomp"),
    (rules.security_problems, POD, "memory: 4Gi, ", "", "no limits"),
    (rules.scaling_problems, SCALER, "name: tidemill_num_", "name: num_", "scales on something else"),
    (
        rules.scaling_problems,
        ADAPTER,
        "seriesQuery: tidemill_num_",
        "seriesQuery: vllm_num_",
        "the adapter does not ask",
    ),
    (rules.scaling_problems, SCALER, "minReplicas: 2", "minReplicas: 1", "fewer than two"),
    (
        rules.scaling_problems,
        "kubernetes/service.yaml",
        "component: model-server",
        "component: model",
        "service is for other",
    ),
    (
        rules.mount_problems,
        POD,
        "mountPath: /var/lib/tidemill, readOnly: true",
        "mountPath: /var/lib/tidemill",
        "writable is",
    ),
    (rules.mount_problems, POD, "            - {name: tmp, mountPath: /tmp}\n", "", "writable is"),
    (rules.mount_problems, COMPOSE, "tidemill:exec,", "tidemill:", "forbids to run kernels"),
    (rules.mount_problems, IMAGE, "TIDEMILL_CACHE=/var/cache", "TIDEMILL_CACHE=/opt", "another home or cache"),
    (rules.command_problems, POD, "--line", "--model-name", "tidemill serve has no --model-name"),
    (rules.command_problems, IMAGE, 'CMD ["serve", "--host", "0.0.0.0"]', 'CMD ["serve"]', "CMD: listens only inside"),
    (rules.command_problems, COMPOSE, '"127.0.0.1:8000:8000"', '"8000:8000"', "compose.yaml: lets everyone in"),
    (rules.command_problems, POD, "--keys, /etc/tidemill/keys.json", "--no-keys", "deployment.yaml: lets everyone in"),
    (rules.reference_problems, MADE, "  - service.yaml\n", "", "does not list all"),
    (rules.reference_problems, MADE, "LINE=demo", "LINES=demo", "no generated map gives"),
    (rules.reference_problems, POD, "secretName: tidemill-api-keys", "secretName: keys", "README.md does not make"),
    (rules.reference_problems, MADE, "newTag: 0.1.0", "newTag: latest", "the image has no place"),
    (rules.build_problems, IMAGE, "USER 10001:10001\nEXPOSE", "USER root\nEXPOSE", "starts as"),
    (rules.build_problems, IMAGE, "g++ tini", "tini", "no compiler"),
    (rules.build_problems, IMAGE, "HEALTHCHECK", "LABEL health", "nothing asks /health"),
    (rules.build_problems, COMPOSE, "target: server", "target: model", "compose.yaml builds"),
    (rules.build_problems, IMAGE, "COPY tasks tasks", "COPY task task", "copies what is not there"),
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_deploy_has_no_problems(check: Check) -> None:
    assert check(DEPLOY) == []


@pytest.mark.parametrize(
    ("check", "file", "old", "new", "says"), BREAKS, ids=[f"{check.__name__}: {says}" for check, *_, says in BREAKS]
)
def test_each_check_finds_what_is_broken(
    check: Check, file: str, old: str, new: str, says: str, tmp_path: Path
) -> None:
    deploy = shutil.copytree(DEPLOY, tmp_path / "deploy")
    text = (deploy / file).read_text()
    assert old in text, f"{file} has no {old!r} to break"
    # The last one: in compose.yaml that is the model server's, in the Containerfile its image's.
    (deploy / file).write_text(new.join(text.rsplit(old, 1)))
    assert any(says in problem for problem in check(deploy)), check(deploy)


def test_every_check_was_seen_to_fail() -> None:
    assert {check for check, *_ in BREAKS} == set(CHECKS)


@pytest.mark.parametrize("package", ["flows", "tasks", "llm_core"])
def test_the_image_gets_every_file_of_the_packages(package: str) -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {path for pattern in patterns.get(package, ()) for path in (ROOT / package).glob(pattern)}
    files = {path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files <= installed, "add them to package-data in pyproject.toml"
