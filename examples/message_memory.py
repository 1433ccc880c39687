"""An agent's memory of messages: insert, the latest, one by its id, pairs, a chat history with an image, reset.

Start the service first (`memory-service serve`), then run
`python examples/message_memory.py [http://localhost:8000]`. No model and no key are needed.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from client import ConnectionFailed, SyncMemoryServiceClient

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4"
    "2mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


def shown(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " + ".join(part["type"] for part in content)


def main(service_url: str) -> None:
    # The agent is the user of its memory here, and the conversation its session. To make a client wipes nothing.
    agent, conversation = f"agent-{uuid4().hex[:8]}", "playground"
    with SyncMemoryServiceClient(service_url, agent, conversation) as memory:
        memory.add_message(
            "user", "Hello, how are you?", message_id="msg_001", timestamp=datetime(2026, 5, 8, 9, 30, tzinfo=UTC)
        )
        memory.add_message("assistant", "I'm doing well, thank you!", message_id="msg_002")
        memory.add_pair("What is the weather like today?", "Sunny, 22 degrees.")

        print("=== The latest two")
        for message in memory.get_messages(2)["messages"]:
            print(f"{message['turn_number']}. {message['role']}: {shown(message)}")
        print("=== One by its id")
        print(shown(memory.get_message("msg_001")))

        print("=== What a model is sent: the system prompt, the latest three, and a question with an image")
        question = [
            {"type": "text", "text": "Can I wear this today?"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
        ]
        history = memory.chat_history(question, system_prompt="You suggest outfits.", latest=3)["messages"]
        for message in history:
            print(f"{message['role']}: {shown(message)}")
        memory.add_pair(question, "It suits the sun.")

    with SyncMemoryServiceClient(service_url, agent, conversation) as memory:  # another process, another day
        kept = memory.get_messages()["messages"]
        print(f"=== Later: {len(kept)} messages, the image as it was: {kept[4]['content'] == question}")
        found = memory.search_messages("weather", 1)["messages"]
        print(f"=== Searched for weather: {shown(found[0])}")
        print(f"=== {memory.reset_memory()['message']}")
        memory.add_message("user", "Do you remember me?")
        print(f"Messages now: {memory.get_messages()['count']}")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000")
    except ConnectionFailed as failure:
        sys.exit(f"{failure}\nIs the service running? Start it with: memory-service serve")
