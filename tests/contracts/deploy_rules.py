"""What no linter knows of deploy/: whether its files speak of the server that the code is.

Each rule takes a folder like deploy/ and gives back what is wrong, one line a problem.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
import yaml

from flows.cli import app, serve
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.metrics import QUEUE_METRIC
from llm_core.serving.server import DRAIN_SECONDS, FLUSH_SECONDS
from tests.contracts.deploy_linters import manifests

ROOT = Path(__file__).parents[2]
METRICS_PATH = "/metrics"
PROBES = {"startupProbe": "/health", "readinessProbe": "/ready", "livenessProbe": "/health"}
PORT = inspect.signature(serve).parameters["port"].default
LEAVING_SECONDS = 5
"""A pod that ends has left every proxy's list of addresses by then, in a cluster that is well."""


def probe_problems(deploy: Path) -> list[str]:
    """Each probe is there and asks the route that answers its question."""
    container, routes = _container(deploy), _routes()
    asked = {name: container.get(name, {}).get("httpGet", {}) for name in PROBES}
    wrong = [name for name, path in PROBES.items() if asked[name].get("path") != path or path not in routes]
    lost = [name for name in PROBES if asked[name].get("port") not in [port["name"] for port in container["ports"]]]
    return [f"{name} asks {asked[name]}, not {PROBES[name]}" for name in dict.fromkeys((*wrong, *lost))]


def port_problems(deploy: Path) -> list[str]:
    """The server's port is the same everywhere."""
    annotations = manifests(deploy)["deployment.yaml"]["spec"]["template"]["metadata"]["annotations"]
    text, model = (deploy / "Containerfile").read_text(), _compose(deploy)["services"]["model"]
    said = {
        "deployment.yaml": _container(deploy)["ports"][0]["containerPort"],
        "prometheus.io/port": annotations["prometheus.io/port"],
        "EXPOSE": next(iter(re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE)), None),
        "HEALTHCHECK": next(iter(re.findall(r"http://127\.0\.0\.1:(\d+)/health", text)), None),
        "ports of compose.yaml": model["ports"][0].split(":")[-1],
        "healthcheck of compose.yaml": next(iter(re.findall(r":(\d+)/ready", str(model["healthcheck"]))), None),
    }
    wrong = [f"{place}: {port} is not the server's {PORT}" for place, port in said.items() if str(port) != str(PORT)]
    name = _container(deploy)["ports"][0]["name"]
    asked = (_service(deploy)["targetPort"], _policy(deploy)["ingress"][0]["ports"][0]["port"])
    return wrong + [f"{other!r} is no port of the pod" for other in asked if other != name]


def ending_problems(deploy: Path) -> list[str]:
    """Nobody is killed who still answers, and the server goes on until no request comes its way."""
    needs = DRAIN_SECONDS + FLUSH_SECONDS
    pause = _container(deploy).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace, model = _pod(deploy)["terminationGracePeriodSeconds"], _compose(deploy)["services"]["model"]
    strategy = manifests(deploy)["deployment.yaml"]["spec"]["strategy"]["rollingUpdate"]
    rules = {
        f"the pause before SIGTERM is {pause} s, proxies need {LEAVING_SECONDS}": pause >= LEAVING_SECONDS,
        f"a pod is killed after {grace} s, it needs {pause + needs}": grace > pause + needs,
        "compose.yaml kills too early": int(model["stop_grace_period"].removesuffix("s")) > needs,
        "a rolling update takes replicas away first": strategy["maxUnavailable"] == 0,
    }
    return _broken(rules)


def security_problems(deploy: Path) -> list[str]:
    """A replica can do and see no more than it needs."""
    pod, container = _pod(deploy), _container(deploy)
    own, shared = container["securityContext"], pod["securityContext"]
    rules = {
        "runs as root": shared.get("runAsNonRoot") is True and shared.get("runAsUser", 0) > 0,
        "no seccomp profile": shared.get("seccompProfile") == {"type": "RuntimeDefault"},
        "may gain privileges": own.get("allowPrivilegeEscalation") is False,
        "the root can be written": own.get("readOnlyRootFilesystem") is True,
        "keeps capabilities": own.get("capabilities") == {"drop": ["ALL"]},
        "gets a token of the cluster": pod.get("automountServiceAccountToken") is False,
        "no limits": all(
            {"cpu", "memory"} <= set(container["resources"].get(kind, ())) for kind in ("requests", "limits")
        ),
    }
    return _broken(rules)


def scaling_problems(deploy: Path) -> list[str]:
    """The queue's length goes from the server's metric through the adapter to the autoscaler of this Deployment."""
    deployment, spec = manifests(deploy)["deployment.yaml"], manifests(deploy)["autoscaler.yaml"]["spec"]
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    adapter = _read(deploy / "kubernetes" / "prometheus-adapter-values.yaml")["rules"]["custom"][0]
    labels, budget = deployment["spec"]["template"]["metadata"]["labels"], manifests(deploy)["disruption-budget.yaml"]
    rules = {
        f"scales on something else than {QUEUE_METRIC}": spec["metrics"][0]["pods"]["metric"]["name"] == QUEUE_METRIC,
        f"the adapter does not ask for {QUEUE_METRIC}": adapter["seriesQuery"].partition("{")[0] == QUEUE_METRIC,
        f"{METRICS_PATH} is not scraped": annotations["prometheus.io/path"] == METRICS_PATH,
        "scales another object": spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"],
        "fewer than two replicas": spec["minReplicas"] >= 2 and "replicas" not in deployment["spec"],
        "the budget is for other pods": budget["spec"]["selector"]["matchLabels"] == labels,
        "the service is for other pods": manifests(deploy)["service.yaml"]["spec"]["selector"] == labels,
        "the network policy is for other pods": _policy(deploy)["podSelector"]["matchLabels"] == labels,
    }
    return _broken(rules)


def mount_problems(deploy: Path) -> list[str]:
    """The server can write where it writes, and nowhere else; compiled kernels may be run from where they are."""
    container, volumes = _container(deploy), {volume["name"]: volume for volume in _pod(deploy)["volumes"]}
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    writes = {f"{env['TIDEMILL_HOME']}/served", env["TIDEMILL_CACHE"], env["HOME"], "/tmp"}
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    temporary = {path for path, mount in mounts.items() if "emptyDir" in volumes[mount["name"]]}
    tmpfs = dict(mount.partition(":")[::2] for mount in _compose(deploy)["services"]["model"]["tmpfs"])
    cache_options = tmpfs.get(_image_variable(deploy, "TIDEMILL_CACHE"), "").split(",")
    same = [_image_variable(deploy, name) == env[name] for name in ("TIDEMILL_HOME", "TIDEMILL_CACHE")]
    rules = {
        f"writable is {sorted(writable)}, the server writes to {sorted(writes)}": writes == writable == temporary,
        "the home is not mounted": env["TIDEMILL_HOME"] in mounts,
        "a volume is used by nobody": set(volumes) == {mount["name"] for mount in mounts.values()},
        "compose.yaml forbids to run kernels": "exec" in cache_options,
        "the image has another home or cache": all(same),
    }
    return _broken(rules)


def command_problems(deploy: Path) -> list[str]:
    """Every option is one that `tidemill serve` has, and the server listens for others than itself."""
    known = {name for parameter in typer.main.get_command(app).commands["serve"].params for name in parameter.opts}
    by_default = re.findall(r"^CMD (.*)$", (deploy / "Containerfile").read_text(), re.MULTILINE)[-1]
    commands = {
        "deployment.yaml": _container(deploy)["args"],
        "compose.yaml": _compose(deploy)["services"]["model"]["command"],
        "CMD": re.findall(r'"(.*?)"', by_default),
    }
    unknown = [
        f"{place}: tidemill serve has no {word}"
        for place, words in commands.items()
        for word in words
        if word.startswith("--") and word not in known
    ]
    deaf = [place for place, words in commands.items() if words[1:3] != ["--host", "0.0.0.0"]]
    open_to_all = [place for place, words in commands.items() if "--no-keys" in words and place != "compose.yaml"]
    published = [str(port) for port in _compose(deploy)["services"]["model"]["ports"]]
    if "--no-keys" in commands["compose.yaml"] and not all(port.startswith("127.0.0.1:") for port in published):
        open_to_all.append("compose.yaml")
    return (
        unknown
        + [f"{place}: listens only inside its container" for place in deaf]
        + [f"{place}: lets everyone in" for place in open_to_all]
    )


def reference_problems(deploy: Path) -> list[str]:
    """Whatever a manifest names is there: files, generated or documented maps, the claim, variables, the image."""
    made, pod, container = _read(deploy / "kubernetes" / "kustomization.yaml"), _pod(deploy), _container(deploy)
    maps = {generated["name"]: generated["literals"] for generated in made["configMapGenerator"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    readme = (deploy / "README.md").read_text()
    by_hand = (volumes["ledger-key"]["configMap"]["name"], volumes["api-keys"]["secret"]["secretName"])
    literals = maps.get(container["envFrom"][0]["configMapRef"]["name"], [])
    wanted = {"MLFLOW_TRACKING_URI", *re.findall(r"\$\((\w+)\)", " ".join(container["args"]))}
    claim, image = manifests(deploy)["home-claim.yaml"]["metadata"]["name"], made["images"][0]
    rules = {
        "kustomization.yaml does not list all manifests": sorted(made["resources"]) == sorted(manifests(deploy)),
        f"README.md does not make {by_hand}": all(
            re.search(rf"kubectl .*create \w+.* {name} ", readme) for name in by_hand
        ),
        f"no generated map gives {sorted(wanted)}": wanted <= {literal.partition("=")[0] for literal in literals},
        "the claim is not there": volumes["home"]["persistentVolumeClaim"]["claimName"] == claim,
        "the image has no place": image["name"] == container["image"] and image["newTag"] != "latest",
    }
    return _broken(rules)


def build_problems(deploy: Path) -> list[str]:
    """The image holds what the server needs and starts as the user that the Deployment names."""
    text = (deploy / "Containerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for word in line.split()]
    users = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    stages = set(re.findall(r"^FROM .* AS (\w+)$", text, re.MULTILINE))
    context = _pod(deploy)["securityContext"]
    asked = {service["build"]["target"] for service in _compose(deploy)["services"].values()}
    rules = {
        f"starts as {users[-1:]}": users[-1:] == [f"{context['runAsUser']}:{context['runAsGroup']}"],
        "no compiler for the kernels": re.search(r"apt-get install .*\bg\+\+", text) is not None,
        "nothing asks /health": re.search(r"^HEALTHCHECK .*\n?.*/health", text, re.MULTILINE) is not None,
        f"compose.yaml builds {sorted(asked)} of {sorted(stages)}": asked <= stages,
        "copies what is not there": all((ROOT / word).exists() for word in copied),
    }
    return _broken(rules)


def _routes() -> set[str]:
    with Engine() as engine:
        return set(create_app(Service(Host(["demo"]), engine)).openapi()["paths"])


def _broken(rules: Mapping[str, bool]) -> list[str]:
    return [problem for problem, holds in rules.items() if not holds]


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _compose(deploy: Path) -> Any:
    return _read(deploy / "compose.yaml")


def _pod(deploy: Path) -> Any:
    return manifests(deploy)["deployment.yaml"]["spec"]["template"]["spec"]


def _container(deploy: Path) -> Any:
    return _pod(deploy)["containers"][0]


def _service(deploy: Path) -> Any:
    return manifests(deploy)["service.yaml"]["spec"]["ports"][0]


def _policy(deploy: Path) -> Any:
    return manifests(deploy)["network-policy.yaml"]["spec"]


def _image_variable(deploy: Path, name: str) -> str:
    found = re.findall(rf"\b{name}=(\S+)", (deploy / "Containerfile").read_text())
    return str(found[-1]) if found else ""
