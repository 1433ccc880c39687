# ruff: noqa: E501 (as they are there)
"""Cells of the notebook that the gateway was first described by, as they are there.

Left out are those that show source, that make a server (which the service is), and that ask a cloud for an address.
"""

from __future__ import annotations

IN_PROCESS = (
    r"""from agentic_platform.core.models.memory_models import SessionContext, Memory""",
    r"""from agentic_platform.core.models.memory_models import CreateMemoryRequest, UpsertSessionContextRequest
from agentic_platform.core.models.llm_models import Message
from agentic_platform.service.memory_gateway.api.create_memory_controller import CreateMemoryController
from agentic_platform.service.memory_gateway.api.upsert_session_controller import UpsertSessionContextController""",
    r"""session_entry = SessionContext()
session_entry.add_message(Message(role='user', text='sample message'))""",
    r"""from agentic_platform.core.models.memory_models import CreateMemoryResponse, UpsertSessionContextResponse
upsert_request : UpsertSessionContextRequest = UpsertSessionContextRequest(
    session_context=session_entry
)

response: UpsertSessionContextResponse = UpsertSessionContextController.upsert_session_context(upsert_request)
print(response.model_dump_json(indent=2))""",
    r"""import uuid
session_entry.add_message(Message(role='assistant', text='Could you elaborate?'))
session_entry.add_message(Message(role='user', text='Meant to ask you to tell me a joke'))
session_entry.add_message(Message(role='assistant', text='Knock knock!'))
session_entry.add_message(Message(role='user', text='My favorite sport is football, tell me a joke about that'))
session_entry.add_message(Message(role='assistant', text='Why do football players get paid so much? Overtime!'))
memory_entry = CreateMemoryRequest(session_id = session_entry.session_id,
                                   agent_id=str(uuid.uuid4()),
                                   user_id='test_user',
                                   session_context=session_entry)""",
    r"""response: CreateMemoryResponse = CreateMemoryController.create_memory(memory_entry)
print(response.model_dump_json(indent=2))""",
    r"""from agentic_platform.core.models.memory_models import GetMemoriesRequest, GetMemoriesResponse, GetSessionContextRequest, GetSessionContextResponse

get_memory_request : GetMemoriesRequest = GetMemoriesRequest(
    session_id = session_entry.session_id
)""",
    r"""get_session_request: GetSessionContextRequest = GetSessionContextRequest(
    session_id = session_entry.session_id
)""",
    r"""from agentic_platform.service.memory_gateway.api.get_memory_controller import GetMemoriesController
from agentic_platform.service.memory_gateway.api.get_session_controller import GetSessionContextController

response: GetSessionContextResponse = GetSessionContextController.get_session_context(get_session_request)
print(response.model_dump_json(indent=2))""",
    r"""response: GetMemoriesResponse = GetMemoriesController.get_memories(get_memory_request)
print(response.model_dump_json(indent=2))""",
    r"""get_memory_request : GetMemoriesRequest = GetMemoriesRequest(
    session_id = session_entry.session_id,
    embedding=response.memories[0].embedding
)""",
    r"""response: GetMemoriesResponse = GetMemoriesController.get_memories(get_memory_request)
print(response.model_dump_json(indent=2))""",
)
"""Its first half."""

TEST_CLIENT = (
    r"""# Test the health endpoint
response = test_client.get("/health")
print(f"Status code: {response.status_code}")
print(f"Response: {response.json()}")""",
    r"""request = GetSessionContextRequest(session_id=session_entry.session_id)
response = test_client.post("/get-session-context", json=request.dict())
print(f"Status code: {response.status_code}")
print(f"Response: {response.json()}")""",
    r"""response = test_client.post("/get-memories", json=get_memory_request.dict())
print(f"Status code: {response.status_code}")
print(f"Response: {response.json()}")""",
)
"""Calls of a server, by a client `test_client`."""

OVER_HTTP = (
    r"""response = requests.get(
        f'http://{dns_name}/memory-gateway/health',
        timeout=5
    )
print(response.json())""",
    r"""def call_gateway_get_session(request: GetSessionContextRequest) -> GetSessionContextResponse:
    # Call the gateway
    response = requests.post(
        f'http://{dns_name}/memory-gateway/get-session-context',
        headers={'Authorization': auth_header},
        json=request.model_dump(),
        timeout=5
    )

    # Convert the response to our own type
    print(json.dumps(response.json()))
    return GetSessionContextResponse(**response.json())

def call_gateway_get_memories(request: GetMemoriesRequest) -> GetMemoriesResponse:
    # Call the gateway
    response = requests.post(
        f'http://{dns_name}/memory-gateway/get-memories',
        headers={'Authorization': auth_header},
        json=request.model_dump(),
        timeout=5
    )

    # Convert the response to our own type
    print(json.dumps(response.json()))
    return GetMemoriesResponse(**response.json())

def call_gateway_create_memory(request: CreateMemoryRequest) -> CreateMemoryResponse:
    # Call the gateway
    response = requests.post(
        f'http://{dns_name}/memory-gateway/create-memory',
        headers={'Authorization': auth_header},
        json=request.model_dump(),
        timeout=5
    )

    # Convert the response to our own type
    print(json.dumps(response.json()))
    return CreateMemoryResponse(**response.json())

def call_gateway_upsert_session(request: UpsertSessionContextRequest) -> UpsertSessionContextResponse:
    # Call the gateway
    response = requests.post(
        f'http://{dns_name}/memory-gateway/upsert-session-context',
        headers={'Authorization': auth_header},
        json=request.model_dump(),
        timeout=5
    )

    # Convert the response to our own type
    print(json.dumps(response.json()))
    return UpsertSessionContextResponse(**response.json())""",
    r"""session_entry = SessionContext()
session_entry.add_message(Message(role='user', text='sample message'))
upsert_request : UpsertSessionContextRequest = UpsertSessionContextRequest(
    session_context=session_entry
)""",
    r"""response: UpsertSessionContextResponse = call_gateway_upsert_session(upsert_request)""",
    r"""print(response.model_dump_json(indent=2))""",
)
"""Its second half: calls of a gateway that runs somewhere."""
