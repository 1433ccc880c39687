"""What lies in deploy/: held against real schemas where they come as packages, and against the service's own facts.

Each rule is a function that names what breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import yaml
from compose_spec import PyCompose

from memory_service import __version__
from memory_service.api.bodies import MAX_BODY_BYTES
from memory_service.api.routes import VERBS
from memory_service.guard import Limits
from memory_service.server import KEEP_ALIVE_S, LATE_S
from memory_service.settings import Settings, known_settings
from memory_service.stores.postgres.client import MOST_CONNECTIONS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = {str(path.relative_to(DEPLOY)): path.read_text() for path in sorted(DEPLOY.rglob("*.*")) if path.is_file()}
KUBERNETES = [name for name in FILES if name.startswith("kubernetes/")]
VERSIONS = ["1.30", "1.33"]
FOREIGN = {"kustomize.config.k8s.io/v1beta1", "keda.sh/v1alpha1"}
"""What the schemas of Kubernetes do not know."""
NOT_OURS = {
    "AZURE_CLIENT_ID": "read by azure-identity",
}
PORT = Settings.model_fields["port"].default
LABEL = {"app.kubernetes.io/name": "memory-service"}
ALTERNATIVES = {"keda.yaml", "statefulset.yaml"}
"""Each in place of other files."""
CLOSE_S = 10
"""Beyond drain and grace, until the process has ended: the tests of tests/faults/test_stop.py allow as much."""
SECONDS = re.compile(r"(\d+)s")
IMAGE = re.compile(r"agent-memory-service:(\S+)")

Files = dict[str, str]
Rule = Callable[[Files], Iterator[str]]


class Probe(NamedTuple):
    kind: str
    path: str
    port: int | str
    allows_s: float


class Workload(NamedTuple):
    """One way to run the service, whatever file says so."""

    file: str
    env: dict[str, str]
    ports: dict[str, int]
    probes: list[Probe]
    grace_s: float
    container: dict[str, Any]
    pod: dict[str, Any]


def documents(files: Files, name: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(files[name]) if document]


def of_kind(files: Files, kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, one) for name in KUBERNETES for one in documents(files, name) if one["kind"] == kind]


def compose(files: Files) -> dict[str, Any]:
    return dict(documents(files, "compose.yaml")[0])


def workloads(files: Files) -> Iterator[Workload]:
    for kind in ("Deployment", "StatefulSet"):
        for name, found in of_kind(files, kind):
            yield from of_pod(name, found["spec"]["template"]["spec"])
    for app in documents(files, "azure/containerapp.yaml"):
        yield from of_pod("azure/containerapp.yaml", app["properties"]["template"])
    memory = compose(files)["services"]["memory"]
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", " ".join(memory["healthcheck"]["test"]))
    assert asked, "the health check of the service in compose.yaml asks for no URL"
    probe = Probe("readiness", asked[2], int(asked[1]), seconds(memory["healthcheck"]["interval"]))
    yield Workload(
        "compose.yaml",
        memory["environment"],
        {"http": int(asked[1])},
        [probe],
        seconds(memory["stop_grace_period"]),
        memory,
        memory,
    )


def of_pod(file: str, pod: dict[str, Any]) -> Iterator[Workload]:
    for container in pod["containers"]:
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        yield Workload(
            file=file,
            env={one["name"]: str(one.get("value", "")) for one in container["env"]},
            ports=ports,
            probes=list(probes_of(container, ports)),
            grace_s=pod["terminationGracePeriodSeconds"],
            container=container,
            pod=pod,
        )


def probes_of(container: dict[str, Any], ports: dict[str, int]) -> Iterator[Probe]:
    given = {name.removesuffix("Probe"): probe for name, probe in container.items() if name.endswith("Probe")}
    given |= {probe["type"].lower(): probe for probe in container.get("probes", [])}
    for kind, probe in given.items():
        asked = probe["httpGet"]
        allows_s = probe["periodSeconds"] * probe["failureThreshold"]
        yield Probe(kind, asked["path"], ports.get(asked["port"], asked["port"]), allows_s)


def seconds(text: str) -> float:
    found = SECONDS.fullmatch(text)
    assert found, f"write {text!r} in seconds"
    return int(found[1])


# The rules


def held_against_the_schemas(files: Files) -> Iterator[str]:
    for name in KUBERNETES:
        for document in documents(files, name):
            if document["apiVersion"] in FOREIGN:
                continue
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as exc:
                    yield f"{name}, Kubernetes {version}: {'.'.join(map(str, exc.path))}: {exc.message}"


def read_by_compose(files: Files) -> Iterator[str]:
    try:
        PyCompose.from_yaml(files["compose.yaml"])
    except ValueError as exc:
        yield str(exc)


def every_variable_is_a_setting(files: Files) -> Iterator[str]:
    known = {*known_settings(), *NOT_OURS}
    for workload in workloads(files):
        yield from (f"{workload.file}: {name} is no setting" for name in workload.env if name not in known)
        given = {name.lower(): value for name, value in workload.env.items() if "${" not in value}
        Settings(_env_file=None, **given)  # raises for a value that is none


def every_probe_is_a_route(files: Files) -> Iterator[str]:
    routes = {verb.path for verb in VERBS if verb.method == "GET" and verb.open}
    for workload in workloads(files):
        for probe in workload.probes:
            name = f"{workload.file}, {probe.kind}"
            if probe.path not in routes:
                yield f"{name}: {probe.path} is no open route"
            if probe.port != PORT:
                yield f"{name}: {probe.port} is not the port of the service"
            if (probe.kind == "readiness") != (probe.path == "/readyz"):
                yield f"{name}: {probe.path} tells something else (a restart mends no database)"
        if workload.ports and set(workload.ports.values()) != {PORT}:
            yield f"{workload.file}: {workload.ports} is not the port of the service"


def ports_meet(files: Files) -> Iterator[str]:
    named = {name for workload in workloads(files) for name in workload.ports}
    for name, service in of_kind(files, "Service"):
        yield from (
            f"{name}: no port {p['targetPort']}" for p in service["spec"]["ports"] if p["targetPort"] not in named
        )
    for name, policy in of_kind(files, "NetworkPolicy"):
        into = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        yield from (f"{name}: no port {port}" for port in into if port not in named)
    if documents(files, "azure/containerapp.yaml")[0]["properties"]["configuration"]["ingress"]["targetPort"] != PORT:
        yield "azure/containerapp.yaml: the ingress sends to another port"
    if f"server memory:{PORT} " not in files["nginx.conf"]:
        yield "nginx.conf sends to another port"
    listens = re.search(r"listen (\d+);", files["nginx.conf"])
    if not listens or not compose(files)["services"]["nginx"]["ports"][0].endswith(f":{listens[1]}"):
        yield "compose.yaml publishes another port than nginx listens on"


def graces_add_up(files: Files) -> Iterator[str]:
    for workload in workloads(files):
        drain = float(workload.env.get("DRAIN_DELAY_SECONDS", 0))
        grace = float(workload.env["SHUTDOWN_GRACE_SECONDS"])
        if drain + grace + max(LATE_S, CLOSE_S) > workload.grace_s:
            yield f"{workload.file}: killed after {workload.grace_s} s, before drain, grace and closing are over"
        noticed = [probe.allows_s for probe in workload.probes if probe.kind == "readiness"]
        if drain and drain <= max(noticed):
            yield f"{workload.file}: drained before anybody may have noticed that it is not ready"


def images_are_of_this_version(files: Files) -> Iterator[str]:
    for name, text in files.items():
        yield from (f"{name}: image {tag}" for tag in IMAGE.findall(text) if tag != __version__)
    for image in documents(files, "kubernetes/kustomization.yaml")[0]["images"]:
        if image["newTag"] != __version__:
            yield f"kustomization.yaml: image {image['newTag']}"
    others = [one["image"] for one in compose(files)["services"].values()]
    yield from (f"compose.yaml: {image} has no tag" for image in others if not re.search(r":[^:]*\d", image))


def no_secret_is_written_down(files: Files) -> Iterator[str]:
    secret = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    for workload in workloads(files):
        for name, value in workload.env.items():
            is_asked_for = ":?" in value  # of whoever deploys; without it nothing starts
            if not is_asked_for and (name in secret or re.search(r"://[^/@]*:[^/@]+@", value)):
                yield f"{workload.file}: {name} is written down"
    for name, text in files.items():
        if re.search(r"^kind: Secret$", text, re.MULTILINE):
            yield f"{name}: a Secret has no place in a file"


def no_start_without_passwords(files: Files) -> Iterator[str]:
    for line in re.findall(r"^.*\$\{\w+\}.*$", files["compose.yaml"], re.MULTILINE):
        yield f"compose.yaml: starts without: {line}"
    for name, service in compose(files)["services"].items():
        given = {**service.get("environment", {}), "command": " ".join(service.get("command", []))}
        for what, value in given.items():
            if re.search("PASSWORD|AUTH$|requirepass", f"{what} {value}") and ":?" not in value:
                yield f"compose.yaml, {name}: {what} does not come from the environment"


def nobody_else_comes_in(files: Files) -> Iterator[str]:
    """Callers have keys, since they come through a proxy or from elsewhere; and the network is closed besides."""
    yield from (f"{one.file}: asks for no key" for one in workloads(files) if one.env.get("AUTH_MODE") != "keys")
    for name, service in compose(files)["services"].items():
        yield from (f"{name}: {port} is open" for port in service.get("ports", []) if not port.startswith("127.0.0.1:"))
        if name != "nginx" and service.get("ports"):
            yield f"compose.yaml, {name}: publishes a port"
    if not compose(files)["networks"]["inside"].get("internal"):
        yield "compose.yaml: the inner network is not internal"
    for name, service in of_kind(files, "Service"):
        if service["spec"]["type"] != "ClusterIP":
            yield f"{name}: reached from outside"
    policies = [policy["spec"] for _, policy in of_kind(files, "NetworkPolicy")]
    if not all(
        "Ingress" in one["policyTypes"] and all(rule.get("from") for rule in one["ingress"]) for one in policies
    ):
        yield "a NetworkPolicy lets in everybody"
    if documents(files, "azure/containerapp.yaml")[0]["properties"]["configuration"]["ingress"]["external"]:
        yield "azure/containerapp.yaml: external"


def pods_may_do_little(files: Files) -> Iterator[str]:
    user = re.search(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert user
    for workload in workloads(files):
        if not workload.file.startswith("kubernetes/"):
            continue
        pod, own = workload.pod["securityContext"], workload.container["securityContext"]
        resources = workload.container["resources"]
        if pod.get("runAsUser") != int(user[1]) or not pod.get("runAsNonRoot"):
            yield f"{workload.file}: another user than the image's"
        if not own.get("readOnlyRootFilesystem") or own.get("allowPrivilegeEscalation") is not False:
            yield f"{workload.file}: may change its image, or become somebody else"
        if {"cpu", "memory"} - set(resources["requests"]) or "memory" not in resources["limits"]:
            yield f"{workload.file}: takes what it likes"


def selectors_find_their_pods(files: Files) -> Iterator[str]:
    for name, one in [*of_kind(files, "Deployment"), *of_kind(files, "StatefulSet")]:
        if not one["spec"]["selector"]["matchLabels"] == one["spec"]["template"]["metadata"]["labels"] == LABEL:
            yield f"{name}: selects other pods than its own"
    for kind, where in (("Service", "selector"), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for name, one in of_kind(files, kind):
            if one["spec"][where].get("matchLabels", one["spec"][where]) != LABEL:
                yield f"{name}: {kind} of no pod"
    deployments = {one["metadata"]["name"] for _, one in of_kind(files, "Deployment")}
    for name, one in [*of_kind(files, "HorizontalPodAutoscaler"), *of_kind(files, "ScaledObject")]:
        if one["spec"]["scaleTargetRef"]["name"] not in deployments:
            yield f"{name}: scales nothing"


def no_file_is_forgotten(files: Files) -> Iterator[str]:
    listed = set(documents(files, "kubernetes/kustomization.yaml")[0]["resources"])
    there = {name.removeprefix("kubernetes/") for name in KUBERNETES} - {"kustomization.yaml"}
    if listed != there - ALTERNATIVES:
        yield f"kustomization.yaml lists {sorted(listed ^ (there - ALTERNATIVES))} wrongly"


def connections_suffice(files: Files) -> Iterator[str]:
    """PostgreSQL takes ten of every replica there may be, and of one more while a new version comes."""
    services = compose(files)["services"]
    most = re.search(r"max_connections=(\d+)", " ".join(services["postgres"]["command"]))
    if not most or int(most[1]) < (services["memory"]["deploy"]["replicas"] + 1) * MOST_CONNECTIONS:
        yield "compose.yaml: PostgreSQL takes fewer connections than the replicas open"


def nginx_waits_longer_than_the_service(files: Files) -> Iterator[str]:
    text = re.sub(r"#.*", "", files["nginx.conf"])

    def told(directive: str) -> str:
        found = re.search(rf"\b{directive} ([^;]+);", text)
        return found[1] if found else ""

    upstream = text[text.index("upstream memory") : text.index("server {")]
    idle = re.search(r"keepalive_timeout (\d+)s;", upstream)
    if not idle or int(idle[1]) >= KEEP_ALIVE_S:
        yield "nginx.conf: connections are kept for longer than the service keeps them"
    yield from (
        f"nginx.conf: {name} gives up before the service does"
        for name in ("proxy_read_timeout", "proxy_send_timeout")
        if not told(name) or seconds(told(name)) <= Limits().request_s
    )
    if (
        not told("client_max_body_size").endswith("m")
        or int(told("client_max_body_size")[:-1]) * 2**20 <= MAX_BODY_BYTES
    ):
        yield "nginx.conf refuses bodies that the service takes"
    if int(told("large_client_header_buffers").split()[-1].removesuffix("k")) * 1024 <= Limits().head_bytes:
        yield "nginx.conf refuses heads that the service takes"
    if set(told("proxy_next_upstream").split()) != {"error", "timeout"}:
        yield "nginx.conf sends a POST again that may have been stored"
    if "proxy_set_header X-Forwarded-For" not in text:
        yield "nginx.conf hides that it speaks for others"


RULES: list[Rule] = [
    held_against_the_schemas,
    read_by_compose,
    every_variable_is_a_setting,
    every_probe_is_a_route,
    ports_meet,
    graces_add_up,
    images_are_of_this_version,
    no_secret_is_written_down,
    no_start_without_passwords,
    nobody_else_comes_in,
    pods_may_do_little,
    selectors_find_their_pods,
    no_file_is_forgotten,
    connections_suffice,
    nginx_waits_longer_than_the_service,
]
