"""The files of deploy/ break no rule, each rule is shown a file that does, and nginx itself reads its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from memory_service import __version__
from tests.deploy.rules import (
    FILES,
    RULES,
    Rule,
    connections_suffice,
    every_probe_is_a_route,
    every_variable_is_a_setting,
    graces_add_up,
    held_against_the_schemas,
    images_are_of_this_version,
    nginx_waits_longer_than_the_service,
    no_file_is_forgotten,
    no_secret_is_written_down,
    no_start_without_passwords,
    nobody_else_comes_in,
    pods_may_do_little,
    ports_meet,
    read_by_compose,
    selectors_find_their_pods,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_what_is_shipped_breaks_no_rule(rule: Rule) -> None:
    assert list(rule(FILES)) == []


BREAKS: list[tuple[Rule, str, str, str]] = [
    (held_against_the_schemas, "kubernetes/deployment.yaml", "topologyKey:", "topologykey:"),
    (held_against_the_schemas, "kubernetes/hpa.yaml", "maxReplicas: 12", "maxReplicas: many"),
    (held_against_the_schemas, "kubernetes/pdb.yaml", "maxUnavailable", "maxUnavailible"),
    (read_by_compose, "compose.yaml", "stop_grace_period: 35s", "stop_grace_periods: 35s"),
    (read_by_compose, "compose.yaml", "retries: 2", "retries: often"),
    (every_variable_is_a_setting, "kubernetes/deployment.yaml", "DRAIN_DELAY_SECONDS", "DRAIN_SECONDS"),
    (every_variable_is_a_setting, "azure/containerapp.yaml", "COSMOS_ENDPOINT", "COSMOS_URL"),
    (every_variable_is_a_setting, "compose.yaml", "AUTH_MODE", "AUTHMODE"),
    (every_probe_is_a_route, "kubernetes/statefulset.yaml", "path: /livez", "path: /healthz"),
    (every_probe_is_a_route, "kubernetes/deployment.yaml", "path: /livez", "path: /readyz"),
    (every_probe_is_a_route, "azure/containerapp.yaml", "port: 8000", "port: 80"),
    (every_probe_is_a_route, "compose.yaml", "127.0.0.1:8000/readyz", "127.0.0.1:8000/livez"),
    (ports_meet, "kubernetes/service.yaml", "targetPort: http", "targetPort: web"),
    (ports_meet, "kubernetes/networkpolicy.yaml", "port: http", "port: web"),
    (ports_meet, "nginx.conf", "memory:8000", "memory:80"),
    (ports_meet, "nginx.conf", "listen 8080", "listen 80"),
    (ports_meet, "azure/containerapp.yaml", "targetPort: 8000", "targetPort: 80"),
    (
        graces_add_up,
        "kubernetes/deployment.yaml",
        "terminationGracePeriodSeconds: 45",
        "terminationGracePeriodSeconds: 30",
    ),
    (graces_add_up, "azure/containerapp.yaml", 'value: "15"', 'value: "40"'),
    (graces_add_up, "kubernetes/deployment.yaml", "periodSeconds: 3", "periodSeconds: 5"),
    (graces_add_up, "compose.yaml", "stop_grace_period: 35s", "stop_grace_period: 10s"),
    (images_are_of_this_version, "kubernetes/statefulset.yaml", f"service:{__version__}", "service:latest"),
    (images_are_of_this_version, "kubernetes/kustomization.yaml", f"newTag: {__version__}", "newTag: 0.0.9"),
    (images_are_of_this_version, "compose.yaml", "redis:8-alpine", "redis:alpine"),
    (no_secret_is_written_down, "compose.yaml", "${POSTGRES_PASSWORD:?write it into deploy/.env}@", "example@"),
    (
        no_start_without_passwords,
        "compose.yaml",
        ":?write it into deploy/.env}\n      - --maxmemory",
        "}\n      - --maxmemory",
    ),
    (no_secret_is_written_down, "azure/containerapp.yaml", "- name: AUTH_MODE", "- name: COSMOS_KEY"),
    (no_secret_is_written_down, "kubernetes/pdb.yaml", "kind: PodDisruptionBudget", "kind: Secret"),
    (nobody_else_comes_in, "compose.yaml", "127.0.0.1:8080:8080", "8080:8080"),
    (nobody_else_comes_in, "compose.yaml", "AUTH_MODE: keys", "AUTH_MODE: loopback"),
    (nobody_else_comes_in, "azure/containerapp.yaml", "value: keys", "value: none"),
    (nobody_else_comes_in, "kubernetes/statefulset.yaml", "value: keys", "value: none"),
    (nobody_else_comes_in, "compose.yaml", "internal: true", "internal: false"),
    (nobody_else_comes_in, "kubernetes/service.yaml", "ClusterIP #", "LoadBalancer #"),
    (nobody_else_comes_in, "kubernetes/networkpolicy.yaml", "[Ingress, Egress]", "[Egress]"),
    (nobody_else_comes_in, "azure/containerapp.yaml", "external: false", "external: true"),
    (pods_may_do_little, "kubernetes/deployment.yaml", "runAsUser: 10001", "runAsUser: 1000"),
    (pods_may_do_little, "kubernetes/deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
    (pods_may_do_little, "kubernetes/statefulset.yaml", "memory: 768Mi", "ephemeral-storage: 1Gi"),
    (
        selectors_find_their_pods,
        "kubernetes/pdb.yaml",
        "app.kubernetes.io/name: memory-service",
        "app.kubernetes.io/name: memory",
    ),
    (
        selectors_find_their_pods,
        "kubernetes/hpa.yaml",
        "kind: Deployment\n    name: memory-service",
        "kind: Deployment\n    name: memory",
    ),
    (
        selectors_find_their_pods,
        "kubernetes/keda.yaml",
        "kind: Deployment\n    name: memory-service",
        "kind: Deployment\n    name: memory",
    ),
    (no_file_is_forgotten, "kubernetes/kustomization.yaml", "  - pdb.yaml\n", ""),
    (no_file_is_forgotten, "kubernetes/kustomization.yaml", "  - hpa.yaml\n", "  - hpa.yaml\n  - keda.yaml\n"),
    (connections_suffice, "compose.yaml", "replicas: 3", "replicas: 6"),
    (nginx_waits_longer_than_the_service, "nginx.conf", "keepalive_timeout 20s", "keepalive_timeout 60s"),
    (nginx_waits_longer_than_the_service, "nginx.conf", "proxy_read_timeout 40s", "proxy_read_timeout 30s"),
    (nginx_waits_longer_than_the_service, "nginx.conf", "proxy_send_timeout 35s", "proxy_send_timeout 5s"),
    (nginx_waits_longer_than_the_service, "nginx.conf", "client_max_body_size 2m", "client_max_body_size 512k"),
    (nginx_waits_longer_than_the_service, "nginx.conf", "4 40k", "4 8k"),
    (nginx_waits_longer_than_the_service, "nginx.conf", "upstream error timeout", "upstream error non_idempotent"),
    (nginx_waits_longer_than_the_service, "nginx.conf", "X-Forwarded-For", "X-Caller"),
]


@pytest.mark.parametrize(("rule", "file", "old", "new"), BREAKS, ids=[f"{b[0].__name__}: {b[3]}" for b in BREAKS])
def test_a_file_that_breaks_a_rule_is_noticed(rule: Rule, file: str, old: str, new: str) -> None:
    assert old in FILES[file]
    assert list(rule({**FILES, file: FILES[file].replace(old, new)}))


def test_every_rule_has_been_seen_to_fail() -> None:
    assert {rule for rule, *_ in BREAKS} == set(RULES)


def test_a_value_that_is_none_of_a_setting_is_noticed() -> None:
    broken = FILES["compose.yaml"].replace("AUTH_MODE: keys", "AUTH_MODE: open")
    with pytest.raises(ValueError, match="auth_mode"):
        list(every_variable_is_a_setting({**FILES, "compose.yaml": broken}))


def nginx_version(program: str) -> tuple[int, ...]:
    told = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(map(int, re.findall(r"\d+", told)[:3]))


def for_this_machine(config: str, folder: Path, version: tuple[int, ...]) -> str:
    """The file with its paths in `folder`; before 1.27.3, which knows no `resolve`, with an address for the name."""
    config = config.replace("/tmp/", f"{folder}/")
    if version < (1, 27, 3):
        config = re.sub(
            r" *resolver .*\n", "", config.replace(" resolve ", " ").replace("memory:8000", "127.0.0.1:8000")
        )
    return config


@pytest.mark.parametrize(("old", "new", "status"), [("", "", 0), ("proxy_buffering on", "proxy_bufering on", 1)])
def test_nginx_itself_reads_the_file(tmp_path: Path, old: str, new: str, status: int) -> None:
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("no nginx on this machine: nginx.conf is held against the rules alone")
    file = tmp_path / "nginx.conf"
    file.write_text(for_this_machine(FILES["nginx.conf"].replace(old, new), tmp_path, nginx_version(program)))
    ran = subprocess.run([program, "-t", "-p", tmp_path, "-c", file], capture_output=True, text=True, check=False)
    assert ran.returncode == status, ran.stderr
