"""The page on the gateway: its cells are those of the notebook but for imports, and all of them run as they stand."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.notebook import IN_PROCESS, OVER_HTTP, TEST_CLIENT
from tests.support.process import ServiceProcess, beside_stalls, service_process

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "memory-gateway.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
BLOCK = re.compile(r"\n```python\n(.*?)\n```", re.DOTALL)
OURS = {
    r"agentic_platform\.core\.models\.(memory|llm)_models": "memory_service.gateway.models",
    r"agentic_platform\.service\.memory_gateway\.api\.\w+_controller": "memory_service.gateway.controllers",
}
"""What an import of the notebook is here."""


def blocks(section: str) -> list[str]:
    return BLOCK.findall(SECTIONS[section])


def ours(cell: str) -> str:
    for theirs, here in OURS.items():
        cell = re.sub(rf"^from {theirs} import", f"from {here} import", cell, flags=re.MULTILINE)
    return cell


def plain(code: str) -> str:
    """What it does, however it is laid out."""
    return ast.unparse(ast.parse(code))


def run(script: str, folder: Path, **environment: str) -> str:
    (folder / "app.py").write_text(script)
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    ended = subprocess.run(
        [sys.executable, "-W", "always", "app.py"],
        cwd=folder,
        env={**given, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, beside_stalls(ended.stderr)) == (0, "")
    return ended.stdout


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with service_process(tmp_path_factory.mktemp("service")) as process:
        yield process


def test_the_notebook_s_cells_are_on_the_page_with_other_imports_alone() -> None:
    assert [plain(ours(cell)) for cell in IN_PROCESS] == [plain(block) for block in blocks("In your own process")]


def test_the_page_s_cells_run_as_they_stand(tmp_path: Path) -> None:
    out = run("\n".join(blocks("In your own process")), tmp_path)
    assert (tmp_path / "data" / "memory.db").exists()
    upserted, created, session, newest, nearest = (json_of(one) for one in re.split(r"\n(?=\{)", out.strip()))
    assert [part["text"] for part in upserted["session_context"]["messages"][0]["content"]] == ["sample message"]
    assert session["results"] == [upserted["session_context"]]
    memory = created["memory"]
    assert "football" in memory["content"]
    assert len(memory["embedding"]) == 256
    assert [one["memory_id"] for one in newest["memories"]] == [memory["memory_id"]]
    assert newest["memories"][0]["similarity"] == -1
    assert nearest["memories"][0]["similarity"] == pytest.approx(1)


def json_of(text: str) -> dict[str, object]:
    found: dict[str, object] = ast.literal_eval(text.replace("null", "None").replace("false", "False"))
    return found


def test_the_notebook_s_own_gateway_code_is_answered_over_http(tmp_path: Path, service: ServiceProcess) -> None:
    """Its second half: calls through a load balancer. `requests` is httpx2 here, the rest is as it was."""
    told = {"dns_name": service.url.removeprefix("http://"), "auth_header": "Bearer of-somebody"}
    given = "\n".join(f"{name} = {value!r}" for name, value in told.items())
    script = "\n".join([given, "import json, httpx2 as requests", IMPORTS, *OVER_HTTP, AFTERWARDS])
    out = run(script, tmp_path)
    assert out.startswith("{'status': 'healthy'}\n")
    assert out.endswith("all four\n")


IMPORTS = "from memory_service.gateway.models import *"
AFTERWARDS = """
session_id = session_entry.session_id
found = call_gateway_get_session(GetSessionContextRequest(session_id=session_id))
assert found.results == [response.session_context] == [session_entry], found
memory = call_gateway_create_memory(CreateMemoryRequest(
    session_id=session_id, user_id='test_user', agent_id='joker', session_context=session_entry)).memory
assert (memory.agent_id, memory.content) == ('joker', 'user: sample message')
assert call_gateway_get_memories(GetMemoriesRequest(user_id='test_user', agent_id='joker')).memories == [memory]
print('all four')
"""


@pytest.mark.parametrize("prefix", ["", "/memory-gateway", "/api/memory-gateway/"])
def test_the_client_of_the_page_finds_the_gateway_under_each_prefix(
    tmp_path: Path, service: ServiceProcess, prefix: str
) -> None:
    health = "\nprint(MemoryGatewayClient.health().status)"
    endpoint = {"MEMORY_GATEWAY_ENDPOINT": service.url + prefix, "MEMORY_GATEWAY_API_KEY": "of-somebody"}
    out = run("\n".join(blocks("Over HTTP")) + health, tmp_path, **endpoint)
    assert '"user_id": "ana"' in out
    assert out.endswith("\nhealthy\n")


def test_an_answer_that_is_an_error_is_raised(tmp_path: Path, service: ServiceProcess) -> None:
    script = """
import httpx2
from memory_service.gateway.client import MemoryGatewayClient
from memory_service.gateway.models import GetMemoriesRequest
try:
    MemoryGatewayClient.get_memories(GetMemoriesRequest.model_construct(user_id=None, session_id=None))
except httpx2.HTTPStatusError as error:
    print(error.response.status_code, error.response.json()["code"])
"""
    assert run(script, tmp_path, MEMORY_GATEWAY_ENDPOINT=service.url) == "422 validation_failed\n"


def test_the_notebook_s_calls_of_a_local_server_are_answered(tmp_path: Path, service: ServiceProcess) -> None:
    stored = "\n".join(
        [
            *blocks("Over HTTP"),
            IMPORTS,
            "MemoryGatewayClient.create_memory(CreateMemoryRequest(session_id=session_entry.session_id,"
            " user_id='ana', agent_id='a', session_context=session_entry))",
            "get_memory_request = GetMemoriesRequest(session_id=session_entry.session_id)",
            "import httpx2, warnings; warnings.simplefilter('ignore')  # of pydantic, at `dict()`",
            f"test_client = httpx2.Client(base_url={service.url!r})",
        ]
    )
    out = run("\n".join([stored, *TEST_CLIENT]), tmp_path, MEMORY_GATEWAY_ENDPOINT=service.url)
    assert out.count("Status code: 200\n") == 3
    assert out.count("sample message") == 3
